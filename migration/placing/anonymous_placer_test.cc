// Memory with transparent huge pages as it comes: blocks that change hands whole, blocks that do not, and what faults
// find meanwhile. The kernel decides how many huge pages there are; what is asserted of that is asserted where it has
// them.
#include "migration/placing/anonymous_placer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/memory_settings.h"
#include "base/open_userfault.h"
#include "memory/memory_region.h"
#include "migration/placing/userfault.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlocks = 8;
constexpr uint64_t kPages = kBlocks * kBlockPages;
constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;
// As bulk data comes.
constexpr uint64_t kFramePages = 32;

bool HostHasHugePages() { return HugePageChoice("enabled").value_or("never") != "never"; }

class AnonymousPlacerTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto region = MemoryRegion::Create("ram", GuestAddress(0), kPages * kPageBytes, MemoryBacking::kAnonymous);
    ASSERT_TRUE(region.ok()) << region.status();
    region_ = *std::move(region);
    ASSERT_EQ(region_->SetThp(true), absl::OkStatus());
    states_ = std::make_unique<PageStates>(kPages);
    placer_ = std::make_unique<AnonymousPlacer>(*region_, *states_, RealClock());
  }

  void Arm() {
    // Without UFFD_FEATURE_MOVE as kernels before 6.8.
    auto userfault =
        Userfault::Create(OpenUserfault, Userfault::WantedFeatures() & ~(GetParam() ? 0 : Userfault::kMoveFeature));
    ASSERT_TRUE(userfault.ok()) << userfault.status();
    userfault_ = *std::move(userfault);
    moves_ = userfault_->features().move && HostHasHugePages();
    ASSERT_EQ(placer_->Arm(*userfault_), absl::OkStatus());
  }

  static uint8_t ByteOf(uint64_t page) { return static_cast<uint8_t>(page % 251 + 1); }

  // The bytes of `run` come before the switchover.
  void Land(PageRun run) {
    const auto target = placer_->FillTarget(run);
    ASSERT_TRUE(target.ok()) << target.status();
    Write(*target, run);
    ASSERT_EQ(placer_->Filled(run, nullptr), absl::OkStatus());
  }

  // And after it, as a receiver does it. Returns how many pages were news.
  uint64_t Come(PageRun run, Showing showing) {
    uint64_t news = 0;
    if (showing == Showing::kGathered) {
      placer_->BeginGathering(run.first);
    }
    for (PageRun rest = run; rest.count > 0;) {
      const Placer::Claimed claimed = placer_->Claim(rest);
      const uint64_t done = std::max<uint64_t>(claimed.run.count, 1);
      rest = {.first = rest.first + done, .count = rest.count - done};
      if (claimed.run.count == 0) {
        continue;
      }
      news += claimed.run.count;
      const auto target = placer_->StageTarget(claimed.run, claimed.wanted ? Showing::kAtOnce : showing);
      EXPECT_TRUE(target.ok()) << target.status();
      std::vector<uint8_t> buffer(claimed.run.count * kPageBytes);
      Write(target->empty() ? std::span<uint8_t>(buffer) : *target, claimed.run);
      EXPECT_EQ(placer_->Publish(claimed.run, buffer.data()), absl::OkStatus());
    }
    return news;
  }

  void ComeInFrames(PageRun run, Showing showing = Showing::kGathered) {
    for (uint64_t page = run.first; page < run.first + run.count; page += kFramePages) {
      Come({.first = page, .count = kFramePages}, showing);
    }
  }

  static void Write(std::span<uint8_t> into, PageRun run) {
    for (uint64_t page = 0; page < run.count; ++page) {
      std::fill_n(into.begin() + static_cast<ptrdiff_t>(page * kPageBytes), kPageBytes, ByteOf(run.first + page));
    }
  }

  // What the guest sees, all of which is there.
  void ExpectContent(PageRun run) {
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      ASSERT_EQ(states_->Get(page), PageState::kPresent) << page;
      const auto bytes = region_->guest_mapping().subspan(page * kPageBytes, kPageBytes);
      ASSERT_TRUE(std::all_of(bytes.begin(), bytes.end(), [&](uint8_t byte) { return byte == ByteOf(page); })) << page;
    }
  }
  void ExpectZero(uint64_t page) {
    const auto bytes = region_->guest_mapping().subspan(page * kPageBytes, kPageBytes);
    ASSERT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; })) << page;
  }
  uint64_t MovedBlocks() { return placer_->moved_pages() / kBlockPages; }
  uint64_t HugeBlocks() { return *region_->HugeBytes() / kBlockBytes; }

  std::unique_ptr<MemoryRegion> region_;
  std::unique_ptr<PageStates> states_;
  std::unique_ptr<Userfault> userfault_;
  std::unique_ptr<AnonymousPlacer> placer_;
  bool moves_ = false;
};

constexpr PageRun Block(uint64_t block) { return {.first = block * kBlockPages, .count = kBlockPages}; }

TEST_P(AnonymousPlacerTest, RoundsLandInHugePages) {
  for (uint64_t page = 0; page < kPages; page += kFramePages) {
    Land({.first = page, .count = kFramePages});
  }
  ExpectContent({.first = 0, .count = kPages});
  if (HostHasHugePages()) {
    // The first one is small, to compare with.
    EXPECT_GE(HugeBlocks(), 1u);
  }
  ASSERT_EQ(placer_->Disarm(), absl::OkStatus());
  placer_->Compact([] { return false; });
  EXPECT_EQ(HugeBlocks(), HostHasHugePages() ? kBlocks : 0);
  ExpectContent({.first = 0, .count = kPages});
}

// R1: the page that lands first in a huge page makes its neighbours present, as zeros; they must fault all the same.
TEST_P(AnonymousPlacerTest, WhatDidNotComeIsNotThereAfterTheSwitchover) {
  for (uint64_t block = 0; block < kBlocks; ++block) {
    Land({.first = block * kBlockPages + 7, .count = 1});
  }
  Arm();
  EXPECT_EQ(*region_->ResidentBytes(), kBlocks * kPageBytes);
  ComeInFrames({.first = 0, .count = kPages});
  for (uint64_t block = 0; block < kBlocks; ++block) {
    ASSERT_EQ(placer_->EndGathering(block * kBlockPages), absl::OkStatus());
  }
  ExpectContent({.first = 0, .count = kPages});
  EXPECT_EQ(MovedBlocks(), 0u);
  ASSERT_EQ(placer_->Disarm(), absl::OkStatus());
  placer_->Compact([] { return false; });
  EXPECT_EQ(HugeBlocks(), HostHasHugePages() ? kBlocks : 0);
  ExpectContent({.first = 0, .count = kPages});
}

TEST_P(AnonymousPlacerTest, BlockThatComesWholeChangesHandsAtOnce) {
  Arm();
  ComeInFrames({.first = 0, .count = kPages});
  EXPECT_EQ(states_->missing(), 0u);
  ExpectContent({.first = 0, .count = kPages});
  EXPECT_LE(MovedBlocks(), moves_ ? kBlocks - 1 : 0);
  if (moves_) {
    EXPECT_GE(MovedBlocks(), 1u);
    EXPECT_GE(HugeBlocks(), MovedBlocks());
  }
}

// R1, R5: nothing of a block that is gathered is seen before it is shown, and whoever waits for a page of it gets that
// one at once.
TEST_P(AnonymousPlacerTest, WhoWaitsForAPageOfAGatheredBlockGetsItAtOnce) {
  Arm();
  ComeInFrames(Block(0));
  const PageRun run{.first = kBlockPages, .count = kFramePages};
  Come(run, Showing::kGathered);
  if (!moves_) {
    ExpectContent(run);
    return;
  }
  EXPECT_EQ(states_->Get(run.first), PageState::kReceiving);
  EXPECT_FALSE(states_->Request(run.first + 3)) << "R5: it is not asked for again";
  const auto shown = placer_->ShowWanted(run.first + 3);
  ASSERT_TRUE(shown.ok()) << shown.status();
  EXPECT_TRUE(*shown);
  ExpectContent({.first = run.first + 3, .count = 1});
  EXPECT_EQ(states_->Get(run.first + 2), PageState::kReceiving);
  // One that is asked for while it comes is shown when it is there.
  const PageRun next{.first = run.first + kFramePages, .count = kFramePages};
  ASSERT_EQ(placer_->Claim(next).run, next);
  const auto target = placer_->StageTarget(next, Showing::kGathered);
  ASSERT_TRUE(target.ok() && !target->empty());
  EXPECT_FALSE(*placer_->ShowWanted(next.first + 1));
  EXPECT_EQ(states_->Get(next.first + 1), PageState::kAwaited);
  Write(*target, next);
  ASSERT_EQ(placer_->Publish(next, nullptr), absl::OkStatus());
  ExpectContent({.first = next.first + 1, .count = 1});
  // The rest with the rest of the block, which cannot change hands any more.
  const uint64_t moved = MovedBlocks();
  ComeInFrames({.first = next.first + kFramePages, .count = kBlockPages - 2 * kFramePages});
  ExpectContent(Block(1));
  EXPECT_EQ(MovedBlocks(), moved);
}

TEST_P(AnonymousPlacerTest, PageThatCameOverAnotherChannelStaysAsTheGuestHasIt) {
  Arm();
  ComeInFrames(Block(0));
  Come({.first = kBlockPages, .count = kFramePages}, Showing::kGathered);
  const uint64_t page = kBlockPages + 100;
  ASSERT_TRUE(states_->Request(page));
  EXPECT_EQ(Come({.first = page, .count = 1}, Showing::kAtOnce), 1u);
  ExpectContent({.first = page, .count = 1});
  uint8_t& written = region_->guest_mapping()[page * kPageBytes];
  written = 0xff;
  ComeInFrames({.first = kBlockPages + kFramePages, .count = kBlockPages - kFramePages});
  ASSERT_EQ(placer_->EndGathering(kBlockPages), absl::OkStatus());
  EXPECT_EQ(written, 0xff) << "R1";
  written = ByteOf(page);
  ExpectContent(Block(1));
}

TEST_P(AnonymousPlacerTest, ZeroPagesOfABlockComeWithIt) {
  Arm();
  ComeInFrames(Block(0));
  // The chunk of a block that was copied is not zero any more.
  ComeInFrames({.first = kBlockPages, .count = kBlockPages - kFramePages});
  ASSERT_EQ(placer_->EndGathering(kBlockPages), absl::OkStatus());
  ExpectContent({.first = kBlockPages, .count = kBlockPages - kFramePages});
  for (const uint64_t block : {uint64_t{2}, uint64_t{3}}) {
    const uint64_t first = block * kBlockPages;
    const uint64_t moved = MovedBlocks();
    placer_->BeginGathering(first);
    const auto news = placer_->PublishZero({.first = first, .count = 10}, Showing::kGathered);
    ASSERT_TRUE(news.ok()) << news.status();
    EXPECT_EQ(*news, 10u);
    Come({.first = first + 10, .count = 22}, Showing::kGathered);
    ComeInFrames({.first = first + 32, .count = kBlockPages - 32});
    EXPECT_EQ(states_->Get(first + 9), PageState::kPresent);
    // The kernel refuses to move a page that it looks at itself just now, to compact memory; then the block is copied,
    // and who touches a zero page of it asks for it.
    if (MovedBlocks() > moved) {
      EXPECT_TRUE(moves_);
      ExpectZero(first + 9);
    }
    ExpectContent({.first = first + 10, .count = kBlockPages - 10});
  }
  // A block of nothing else stays a hole.
  const auto news = placer_->PublishZero({.first = 4 * kBlockPages, .count = 2 * kBlockPages}, Showing::kGathered);
  ASSERT_TRUE(news.ok()) << news.status();
  EXPECT_EQ(*news, 2 * kBlockPages);
  const uint64_t resident = *region_->ResidentBytes();
  EXPECT_LE(resident, 4 * kBlockBytes);
}

// R4: what has come of a block is not lost with the connection.
TEST_P(AnonymousPlacerTest, WhatWasGatheredIsShownWhenNoMoreComes) {
  Arm();
  ComeInFrames(Block(0));
  Come({.first = kBlockPages, .count = kFramePages}, Showing::kGathered);
  const PageRun cut{.first = kBlockPages + kFramePages, .count = kFramePages};
  ASSERT_EQ(placer_->Claim(cut).run, cut);
  ASSERT_TRUE(placer_->StageTarget(cut, Showing::kGathered).ok());
  placer_->Abandon(cut);
  ASSERT_EQ(placer_->EndGathering(kBlockPages), absl::OkStatus());
  ExpectContent({.first = kBlockPages, .count = kFramePages});
  EXPECT_EQ(states_->Get(cut.first), PageState::kRequested);
  // It comes again, over other connections.
  ComeInFrames({.first = cut.first, .count = kBlockPages - kFramePages});
  ASSERT_EQ(placer_->EndGathering(kBlockPages), absl::OkStatus());
  ExpectContent(Block(1));
}

TEST_P(AnonymousPlacerTest, StaleBlocksAreDroppedAndChangeHandsWhenTheyComeAgain) {
  for (uint64_t page = 0; page < kPages; page += kFramePages) {
    Land({.first = page, .count = kFramePages});
  }
  // Blocks 1 to 3 as a whole, one page of block 5.
  ASSERT_EQ(placer_->Discard({.first = kBlockPages, .count = 3 * kBlockPages}), absl::OkStatus());
  ASSERT_EQ(placer_->Discard({.first = 5 * kBlockPages + 9, .count = 1}), absl::OkStatus());
  EXPECT_EQ(states_->missing(), 3 * kBlockPages + 1);
  EXPECT_EQ(*region_->ResidentBytes(), (kBlocks - 3) * kBlockBytes - kPageBytes);
  Arm();
  ComeInFrames({.first = kBlockPages, .count = 3 * kBlockPages});
  Come({.first = 5 * kBlockPages + 9, .count = 1}, Showing::kGathered);
  ExpectContent({.first = 0, .count = kPages});
  ASSERT_EQ(placer_->Disarm(), absl::OkStatus());
  placer_->Compact([] { return false; });
  EXPECT_EQ(HugeBlocks(), HostHasHugePages() ? kBlocks : 0);
  ExpectContent({.first = 0, .count = kPages});
}

INSTANTIATE_TEST_SUITE_P(Kernels, AnonymousPlacerTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "AsItIs" : "WithoutMove"; });

}  // namespace
}  // namespace ferrite::migration
