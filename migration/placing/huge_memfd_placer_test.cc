// A memfd with huge pages as it comes, on a kernel that tells of MINOR faults and on one that does not. The machine is
// made to have huge pages for it.
#include "migration/placing/huge_memfd_placer.h"

#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "memory/memory_region.h"
#include "migration/placing/userfault.h"
#include "tests/fakes/shared_huge_pages.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlocks = 6;
constexpr uint64_t kPages = kBlocks * kBlockPages + 40;  // the last block is none
constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;
constexpr uint64_t kFramePages = 32;  // as bulk data comes

constexpr PageRun Block(uint64_t block) { return {.first = block * kBlockPages, .count = kBlockPages}; }

class HugeMemfdPlacerTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!host_.status().ok()) {
      GTEST_SKIP() << host_.status();
    }
    auto region = MemoryRegion::Create("ram", GuestAddress(0), kPages * kPageBytes, MemoryBacking::kMemfd);
    ASSERT_TRUE(region.ok()) << region.status();
    region_ = *std::move(region);
    ASSERT_EQ(region_->SetThp(true), absl::OkStatus());
    states_ = std::make_unique<PageStates>(kPages);
    placer_ = MemoryPlacer::Create(*region_, *states_, RealClock());
    ASSERT_NE(dynamic_cast<HugeMemfdPlacer*>(placer_.get()), nullptr);
  }

  void Arm() {
    // Without MINOR faults as kernels before 5.14.
    auto userfault = Userfault::Create(
        OpenUserfault, Userfault::WantedFeatures() & ~(GetParam() ? uint64_t{0} : uint64_t{UFFD_FEATURE_MINOR_SHMEM}));
    ASSERT_TRUE(userfault.ok()) << userfault.status();
    userfault_ = *std::move(userfault);
    minor_ = userfault_->features().minor_shmem;
    ASSERT_EQ(placer_->Arm(*userfault_), absl::OkStatus());
  }

  static uint8_t ByteOf(uint64_t page) { return static_cast<uint8_t>(page % 251 + 1); }

  // The bytes of `run` come before the switchover.
  void Land(PageRun run) {
    for (uint64_t page = run.first; page < run.first + run.count; page += kFramePages) {
      const PageRun frame{.first = page, .count = std::min(kFramePages, run.first + run.count - page)};
      const auto target = placer_->FillTarget(frame);
      ASSERT_TRUE(target.ok()) << target.status();
      ASSERT_EQ(placer_->Filled(frame, Read(frame, *target)), absl::OkStatus());
    }
  }

  // And after it, as a receiver does it.
  void Come(PageRun run, Showing showing = Showing::kGathered) {
    for (PageRun rest = run; rest.count > 0;) {
      placer_->BeginGathering(rest.first);
      const uint64_t most = std::min(kFramePages, kBlockPages - rest.first % kBlockPages);
      const Placer::Claimed claimed = placer_->Claim({.first = rest.first, .count = std::min(most, rest.count)});
      const uint64_t done = std::max<uint64_t>(claimed.run.count, 1);
      rest = {.first = rest.first + done, .count = rest.count - done};
      if (claimed.run.count > 0) {
        const auto target = placer_->StageTarget(claimed.run, claimed.wanted ? Showing::kAtOnce : showing);
        ASSERT_TRUE(target.ok()) << target.status();
        ASSERT_EQ(placer_->Publish(claimed.run, Read(claimed.run, *target)), absl::OkStatus());
      }
    }
  }

  // The bytes of `run` are read to `target`, or to the buffer that is returned.
  const uint8_t* Read(PageRun run, std::span<uint8_t> target) {
    buffer_.resize(run.count * kPageBytes);
    uint8_t* const into = target.empty() ? buffer_.data() : target.data();
    for (uint64_t page = 0; page < run.count; ++page) {
      std::fill_n(into + page * kPageBytes, kPageBytes, ByteOf(run.first + page));
    }
    return buffer_.data();
  }

  // What the guest sees of pages that are here. Faults are answered meanwhile.
  void ExpectContent(PageRun run) {
    ExpectBytes(run, [](uint64_t page) { return ByteOf(page); });
  }
  void ExpectZero(PageRun run) {
    ExpectBytes(run, [](uint64_t) { return uint8_t{0}; });
  }
  void ExpectBytes(PageRun run, uint8_t (*expected)(uint64_t)) {
    const Reader reader(*this, run, expected);
    while (!reader.done()) {
      if (AnswerFault(/*milliseconds=*/10)) {
        ADD_FAILURE() << "R4: a page is not here";
        EXPECT_EQ(userfault_->Unregister(region_->guest_mapping()), absl::OkStatus());
      }
    }
  }

  // A thread of the guest's that reads.
  class Reader {
   public:
    Reader(HugeMemfdPlacerTest& test, PageRun run, uint8_t (*expected)(uint64_t))
        : thread_(StartOrDie("test-reader", [this, &test, run, expected] {
            for (uint64_t page = run.first; page < run.first + run.count; ++page) {
              const auto bytes = test.region_->guest_mapping().subspan(page * kPageBytes, kPageBytes);
              EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(),
                                      [want = expected(page)](uint8_t byte) { return byte == want; }))
                  << "R1: page " << page;
            }
            done_ = true;
          })) {}
    bool done() const { return done_; }

   private:
    std::atomic<bool> done_ = false;
    const Thread thread_;
  };

  // As FaultServer does it, of a page that is here; true if another one was touched.
  bool AnswerFault(int milliseconds) {
    pollfd ready{userfault_ != nullptr ? userfault_->fd() : -1, POLLIN, 0};
    Fault fault;
    if (poll(&ready, 1, milliseconds) <= 0 || userfault_->Read({&fault, 1}).value_or(0) == 0) {
      return false;
    }
    const uint64_t page = (fault.address - reinterpret_cast<uint64_t>(region_->guest_mapping().data())) / kPageBytes;
    if (states_->Get(page) != PageState::kPresent) {
      return true;
    }
    ++present_faults_;
    EXPECT_EQ(placer_->ResolvePresent(page), absl::OkStatus());
    return false;
  }

  // The guest's mapping and the file are as the move leaves them.
  void Settle() {
    ASSERT_EQ(states_->missing(), 0u);
    ASSERT_EQ(placer_->Disarm(), absl::OkStatus());
    userfault_.reset();
    placer_->Compact([] { return false; });
  }
  uint64_t HugeBlocks() { return *region_->HugeBytes() / kBlockBytes; }

  const SharedHugePages host_;
  std::unique_ptr<MemoryRegion> region_;
  std::unique_ptr<PageStates> states_;
  std::unique_ptr<Userfault> userfault_;
  std::unique_ptr<MemoryPlacer> placer_;
  std::vector<uint8_t> buffer_;
  bool minor_ = false;
  uint64_t present_faults_ = 0;
};

// R1: what a huge page has brought in beside the page that came is not seen: who touches it waits until it comes.
TEST_P(HugeMemfdPlacerTest, WhatDidNotComeIsWaitedFor) {
  Land(Block(0));
  for (uint64_t block = 1; block < kBlocks; ++block) {
    Land({.first = block * kBlockPages + 7, .count = 1});
  }
  Arm();
  const PageRun beside{.first = 3 * kBlockPages + 8, .count = 1};
  {
    const Reader reader(*this, beside, [](uint64_t page) { return ByteOf(page); });
    while (!AnswerFault(/*milliseconds=*/10)) {
      ASSERT_FALSE(reader.done()) << "R1";
    }
    Come(beside, Showing::kAtOnce);
  }
  Come({.first = kBlockPages, .count = kPages - kBlockPages});
  ExpectContent({.first = 0, .count = kPages});
  Settle();
  ExpectContent({.first = 0, .count = kPages});
  EXPECT_EQ(HugeBlocks(), kBlocks);
}

TEST_P(HugeMemfdPlacerTest, BlockThatComesWholeIsShownWhole) {
  Arm();
  Come({.first = 0, .count = kPages});
  EXPECT_EQ(placer_->moved_pages() > 0, minor_);
  ExpectContent({.first = 0, .count = kPages});
  EXPECT_EQ(present_faults_, 0u) << "what has come is mapped";
  Settle();
  ExpectContent({.first = 0, .count = kPages});
  EXPECT_EQ(HugeBlocks(), kBlocks);
}

// R1, R5: a page that somebody waits for does not wait for its block, in either order.
TEST_P(HugeMemfdPlacerTest, WhoWaitsForAPageGetsItAtOnce) {
  Arm();
  Come(Block(0));
  // In a block of which nothing is there: a page alone.
  const PageRun alone{.first = kBlockPages + 100, .count = 1};
  Come(alone, Showing::kAtOnce);
  ExpectContent(alone);
  // In one that is gathered, before that has come and after.
  const uint64_t first = 2 * kBlockPages;
  Come({.first = first, .count = kFramePages});
  if (minor_) {
    EXPECT_EQ(states_->Get(first + 3), PageState::kReceiving);
    EXPECT_TRUE(*placer_->ShowWanted(first + 3));
  }
  ExpectContent({.first = first + 3, .count = 1});
  const PageRun later{.first = first + 300, .count = 1};
  Come(later, Showing::kAtOnce);
  ExpectContent(later);
  // What the guest writes stays.
  region_->guest_mapping()[later.first * kPageBytes] = 0;
  Come({.first = 0, .count = kPages});
  ASSERT_EQ(placer_->EndGathering(first), absl::OkStatus());
  EXPECT_EQ(region_->guest_mapping()[later.first * kPageBytes], 0) << "R1";
  region_->guest_mapping()[later.first * kPageBytes] = ByteOf(later.first);
  ExpectContent({.first = 0, .count = kPages});
  EXPECT_EQ(present_faults_, 0u);
  Settle();
  EXPECT_EQ(HugeBlocks(), kBlocks);
}

TEST_P(HugeMemfdPlacerTest, ZeroPages) {
  Land({.first = 0, .count = 3 * kBlockPages});
  // A part of what has come, all of a block, and what has not come.
  ASSERT_EQ(placer_->FillZero({.first = kBlockPages + 5, .count = 20}), absl::OkStatus());
  ASSERT_EQ(placer_->FillZero(Block(2)), absl::OkStatus());
  ASSERT_EQ(placer_->FillZero({.first = 3 * kBlockPages, .count = 9}), absl::OkStatus());
  Arm();
  ExpectZero({.first = kBlockPages + 5, .count = 20});
  ExpectZero({.first = 2 * kBlockPages, .count = 70});
  ExpectZero({.first = 3 * kBlockPages, .count = 9});
  const uint64_t first = 4 * kBlockPages;
  placer_->BeginGathering(first);
  ASSERT_EQ(*placer_->PublishZero({.first = first, .count = 10}, Showing::kGathered), 10u);
  Come({.first = first + 10, .count = kBlockPages - 10});
  ExpectZero({.first = first, .count = 10});
  ASSERT_EQ(*placer_->PublishZero(Block(5), Showing::kGathered), kBlockPages);
  ExpectZero(Block(5));
  Come({.first = 0, .count = kPages});
  ExpectContent({.first = first + 10, .count = kBlockPages - 10});
  ExpectContent(Block(0));
  ExpectZero({.first = kBlockPages + 5, .count = 20});
}

// R4: what has come of a block is not lost with the connection, and what was half there comes again.
TEST_P(HugeMemfdPlacerTest, ConnectionThatEndsInTheMiddleOfABlock) {
  Arm();
  Come(Block(0));
  Come({.first = kBlockPages, .count = kFramePages});
  const PageRun cut{.first = kBlockPages + kFramePages, .count = kFramePages};
  ASSERT_EQ(placer_->Claim(cut).run, cut);
  const auto target = placer_->StageTarget(cut, Showing::kGathered);
  ASSERT_TRUE(target.ok());
  std::fill(target->begin(), target->end(), 0xee);
  placer_->Abandon(cut);
  ASSERT_EQ(placer_->EndGathering(kBlockPages), absl::OkStatus());
  ExpectContent({.first = kBlockPages, .count = kFramePages});
  EXPECT_EQ(states_->Get(cut.first), PageState::kRequested);
  Come({.first = 0, .count = kPages});
  ExpectContent({.first = 0, .count = kPages});
  Settle();
  EXPECT_EQ(HugeBlocks(), kBlocks);
}

// R1: what is out of date is not seen, and comes again.
TEST_P(HugeMemfdPlacerTest, StalePagesAreDropped) {
  Land({.first = 0, .count = kPages});
  // The first block is small, to compare with, and so may be others where huge ones are dear.
  EXPECT_GE(HugeBlocks(), 1u);
  ASSERT_EQ(placer_->Discard({.first = kBlockPages, .count = 2 * kBlockPages}), absl::OkStatus());
  ASSERT_EQ(placer_->Discard({.first = 5 * kBlockPages + 9, .count = 3}), absl::OkStatus());
  EXPECT_EQ(states_->missing(), 2 * kBlockPages + 3);
  EXPECT_LE(*region_->ResidentBytes(), (kPages - 2 * kBlockPages) * kPageBytes);
  Arm();
  // It was zeroed at the source meanwhile.
  const uint64_t stale = 5 * kBlockPages + 9;
  ASSERT_EQ(*placer_->PublishZero({.first = stale, .count = 1}, Showing::kAtOnce), 1u);
  ExpectZero({.first = stale, .count = 1});
  Come({.first = 0, .count = kPages});
  ExpectContent({.first = 0, .count = stale});
  ExpectContent({.first = stale + 1, .count = kPages - stale - 1});
  Settle();
  EXPECT_EQ(HugeBlocks(), kBlocks);
}

INSTANTIATE_TEST_SUITE_P(Kernels, HugeMemfdPlacerTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "AsItIs" : "WithoutMinorFaults"; });

}  // namespace
}  // namespace ferrite::migration
