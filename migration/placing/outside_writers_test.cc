// Memory that is written from outside while it is received (OutsideWriters): nothing of it is given back as long as
// somebody may write (R8), and nobody may when pages are dropped or the guest's faults are waited for (R1).
#include "migration/channel/outside_writers.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/open_userfault.h"
#include "memory/guest_memory.h"
#include "migration/placing/memory_landing.h"
#include "migration/placing/memory_placer.h"
#include "migration/placing/request_queue.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlocks = 4;
constexpr uint64_t kPages = kBlocks * kBlockPages;

class TestWriters final : public OutsideWriters {
 public:
  bool may_write() const override { return ends == 0; }
  bool MayHaveWritten(size_t region, uint64_t page) const override {
    return written.contains({region, page / kBlockPages});
  }
  void End() override {
    if (ends++ == 0 && on_end) {
      on_end();
    }
  }

  std::set<std::pair<size_t, uint64_t>> written;  // by block
  std::function<void()> on_end;
  int ends = 0;
};

// Whether it is to have huge pages.
class OutsideWritersTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::Create(kPages * kPageBytes, MemoryBacking::kAnonymous);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    ASSERT_EQ(memory_->regions()[0]->SetThp(GetParam()), absl::OkStatus());
    landing_ = std::make_unique<MemoryLanding>(*memory_, RealClock());
    landing_->SetOutsideWriters(writers_);
  }

  MemoryPlacer& placer() { return landing_->placer(0); }
  uint8_t* At(uint64_t page) { return memory_->regions()[0]->guest_mapping().data() + page * kPageBytes; }
  bool Holds(PageRun run, uint8_t byte) {
    return std::all_of(At(run.first), At(run.first + run.count), [byte](uint8_t b) { return b == byte; });
  }
  bool IsThere(uint64_t page) {
    unsigned char there = 0;
    EXPECT_EQ(mincore(At(page), kPageBytes, &there), 0);
    return (there & 1) != 0;
  }
  // As a device does, in memory that is registered.
  void Write(PageRun run, uint8_t byte) {
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      writers_->written.insert({0, page / kBlockPages});
    }
    std::memset(At(run.first), byte, run.count * kPageBytes);
  }
  // Has nothing changed under the eyes of the writers when they are ended.
  void ExpectAsItWasAtTheEnd(PageRun run, uint8_t byte) {
    writers_->on_end = [=, this] { EXPECT_TRUE(Holds(run, byte)) << "dropped while it may be written"; };
  }

  std::shared_ptr<TestWriters> writers_ = std::make_shared<TestWriters>();
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<MemoryLanding> landing_;
};

TEST_P(OutsideWritersTest, MemoryThatIsMappedOnceAndSharedIsNotForThem) {
  EXPECT_EQ(landing_->WritableFromOutside()[0].data(), At(0));
  const auto memfd = GuestMemory::Create(kPages * kPageBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memfd.ok()) << memfd.status();
  EXPECT_TRUE(MemoryLanding(**memfd, RealClock()).WritableFromOutside()[0].empty());
}

// R8: a page of one's own in place of what becomes zero would be written by nobody.
TEST_P(OutsideWritersTest, ZeroIsWrittenAndNothingIsPunched) {
  const PageRun blocks{.first = 0, .count = 2 * kBlockPages};
  Write(blocks, 7);
  ASSERT_EQ(placer().Written(blocks), absl::OkStatus());
  // A whole block, and parts.
  ASSERT_EQ(placer().FillZero({.first = 0, .count = kBlockPages}), absl::OkStatus());
  ASSERT_EQ(placer().FillZero({.first = kBlockPages + 3, .count = 2}), absl::OkStatus());
  // To look at what a page holds would bring one.
  EXPECT_TRUE(IsThere(0) && IsThere(kBlockPages - 1) && IsThere(kBlockPages + 3));
  EXPECT_TRUE(Holds({.first = 0, .count = kBlockPages}, 0));
  EXPECT_TRUE(Holds({.first = kBlockPages + 3, .count = 2}, 0));
  EXPECT_TRUE(Holds({.first = kBlockPages + 5, .count = 10}, 7));
  EXPECT_EQ(writers_->ends, 0);
  // When nobody may write it, memory goes back again.
  writers_->End();
  ASSERT_EQ(placer().FillZero({.first = kBlockPages, .count = kBlockPages}), absl::OkStatus());
  EXPECT_FALSE(IsThere(kBlockPages + 9));
  EXPECT_TRUE(Holds({.first = kBlockPages, .count = kBlockPages}, 0));
}

// The same of what came over the connection: it may be in a block that the kernel made huge.
TEST_P(OutsideWritersTest, ZeroOfWhatCameOtherwiseIsWritten) {
  const PageRun run{.first = 0, .count = kBlockPages};
  const auto target = placer().FillTarget(run);
  ASSERT_TRUE(target.ok()) << target.status();
  std::memset(target->data(), 9, target->size());
  ASSERT_EQ(placer().Filled(run, nullptr), absl::OkStatus());
  ASSERT_EQ(placer().FillZero(run), absl::OkStatus());
  EXPECT_TRUE(IsThere(5));
  EXPECT_TRUE(Holds(run, 0));
}

// R1: the connection was lost between the write and its word, and the page is zero by now.
TEST_P(OutsideWritersTest, WhatWasWrittenAndNeverToldOfBecomesZero) {
  Write({.first = 10, .count = 4}, 3);
  ASSERT_EQ(placer().FillZero({.first = 8, .count = 8}), absl::OkStatus());
  EXPECT_TRUE(Holds({.first = 8, .count = 8}, 0));
  EXPECT_EQ(placer().states().Get(11), PageState::kPresent);
}

TEST_P(OutsideWritersTest, ZeroOfWhatNobodyTouchedStaysAHole) {
  ASSERT_EQ(placer().FillZero({.first = 0, .count = kPages}), absl::OkStatus());
  for (const uint64_t page : {uint64_t{0}, kBlockPages, kPages - 1}) {
    EXPECT_FALSE(IsThere(page));
    EXPECT_EQ(placer().states().Get(page), PageState::kPresent);
  }
}

// R1: a page that is registered stays mapped, and does not fault.
TEST_P(OutsideWritersTest, DiscardEndsThemBeforeAnythingIsDropped) {
  const PageRun all{.first = 0, .count = 2 * kBlockPages};
  Write(all, 5);
  const PageRun came{.first = 0, .count = 100};
  ASSERT_EQ(placer().Written(came), absl::OkStatus());
  ExpectAsItWasAtTheEnd(all, 5);
  ASSERT_EQ(placer().Discard({.first = 20, .count = 10}), absl::OkStatus());
  EXPECT_GE(writers_->ends, 1);
  EXPECT_TRUE(Holds({.first = 0, .count = 20}, 5));
  EXPECT_FALSE(IsThere(25));
  EXPECT_TRUE(Holds({.first = 30, .count = 70}, 5));
  EXPECT_FALSE(IsThere(200)) << "it was written, but did not come";
  EXPECT_FALSE(IsThere(kBlockPages + 7));
}

TEST_P(OutsideWritersTest, FaultsAreOursOnlyWhenNobodyWrites) {
  const PageRun all{.first = 0, .count = kBlockPages};
  Write(all, 5);
  ASSERT_EQ(placer().Written({.first = 0, .count = 100}), absl::OkStatus());
  ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
  ExpectAsItWasAtTheEnd(all, 5);
  RequestQueue requests = *RequestQueue::Create();
  ASSERT_EQ(landing_->Arm(requests, 0), absl::OkStatus());
  EXPECT_GE(writers_->ends, 1);
  EXPECT_TRUE(Holds({.first = 0, .count = 100}, 5));
  EXPECT_FALSE(IsThere(101)) << "it was written, but did not come: it must fault";
  landing_->LetGo();
}

TEST_P(OutsideWritersTest, LostPagesAreShownOnlyWhenNobodyWrites) {
  Write({.first = 0, .count = 8}, 5);
  ASSERT_EQ(placer().Written({.first = 0, .count = 8}), absl::OkStatus());
  ASSERT_EQ(placer().Lose({.first = 3, .count = 1}), absl::OkStatus());
  EXPECT_EQ(writers_->ends, 0);
  ExpectAsItWasAtTheEnd({.first = 0, .count = 8}, 5);
  ASSERT_EQ(landing_->ShowPoisoned(), absl::OkStatus());
  EXPECT_GE(writers_->ends, 1);
}

TEST_P(OutsideWritersTest, TheyEndBeforeTheMemoryDoes) {
  landing_.reset();
  EXPECT_EQ(writers_->ends, 1);
}

INSTANTIATE_TEST_SUITE_P(Pages, OutsideWritersTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Huge" : "Small"; });

}  // namespace
}  // namespace ferrite::migration
