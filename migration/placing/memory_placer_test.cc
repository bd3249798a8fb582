// A placer over memory and a userfaultfd of the kernel's, and a thread that
// reads the memory as a guest would.
#include "migration/placing/memory_placer.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "base/clock.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "memory/memory_region.h"
#include "migration/placing/page_states.h"
#include "migration/placing/userfault.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPages = 64;
constexpr int kPatienceMs = 20'000;

class PlacerTest : public testing::TestWithParam<MemoryBacking> {
 protected:
  void SetUp() override {
    auto region = MemoryRegion::Create("ram", GuestAddress(0), kPages * kPageBytes, GetParam());
    ASSERT_TRUE(region.ok()) << region.status();
    region_ = *std::move(region);
    states_ = std::make_unique<PageStates>(kPages);
    placer_ = MemoryPlacer::Create(*region_, *states_, RealClock());
  }

  void Arm() {
    auto userfault = Userfault::Create(OpenUserfault);
    ASSERT_TRUE(userfault.ok()) << userfault.status();
    userfault_ = *std::move(userfault);
    ASSERT_TRUE(placer_->Arm(*userfault_).ok());
  }

  // The bytes of `run` come as they do before the switchover.
  void Land(PageRun run, uint8_t byte) {
    auto landing = placer_->FillTarget(run);
    ASSERT_TRUE(landing.ok()) << landing.status();
    std::vector<uint8_t> buffer(run.count * kPageBytes, byte);
    std::fill(landing->begin(), landing->end(), byte);
    ASSERT_TRUE(placer_->Filled(run, buffer.data()).ok());
  }

  // And as they do after it, for a run that was claimed.
  absl::Status Fill(PageRun run, uint8_t byte) {
    std::vector<uint8_t> buffer(run.count * kPageBytes, byte);
    const std::span<uint8_t> window = *placer_->StageTarget(run, Showing::kAtOnce);
    if (window.empty()) {
      return placer_->Publish(run, buffer.data());
    }
    std::copy(buffer.begin(), buffer.end(), window.begin());
    return placer_->Publish(run, nullptr);
  }

  uint8_t At(uint64_t page) const { return region_->guest_mapping()[page * kPageBytes]; }
  bool All(PageRun run, uint8_t byte) const {
    const auto bytes = region_->guest_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes);
    return std::all_of(bytes.begin(), bytes.end(), [byte](uint8_t b) { return b == byte; });
  }

  // Waits until somebody faults on `page`.
  void ExpectFault(uint64_t page) {
    pollfd ready{userfault_->fd(), POLLIN, 0};
    ASSERT_EQ(poll(&ready, 1, kPatienceMs), 1) << "nobody faulted on page " << page;
    std::array<Fault, 4> faults;
    const auto count = userfault_->Read(faults);
    ASSERT_TRUE(count.ok()) << count.status();
    ASSERT_EQ(*count, 1u);
    EXPECT_EQ(faults[0].address, reinterpret_cast<uint64_t>(region_->guest_mapping().data() + page * kPageBytes));
  }

  // A guest that reads `page`, which is not there; `place` is done when it
  // waits. Returns what it read.
  uint8_t ReadWhile(uint64_t page, const std::function<void()>& place) {
    uint8_t got = 0xee;
    Thread guest = StartOrDie("guest", [&] { got = At(page); });
    ExpectFault(page);
    place();
    guest.Join();
    return got;
  }

  std::unique_ptr<MemoryRegion> region_;
  std::unique_ptr<PageStates> states_;
  std::unique_ptr<Userfault> userfault_;
  std::unique_ptr<MemoryPlacer> placer_;
};

TEST_P(PlacerTest, RunsOutsideOfTheRegionAreNotInIt) {
  EXPECT_TRUE(placer_->Contains({.first = 0, .count = kPages}));
  EXPECT_FALSE(placer_->Contains({.first = 0, .count = 0}));
  EXPECT_FALSE(placer_->Contains({.first = kPages, .count = 1}));
  EXPECT_FALSE(placer_->Contains({.first = 1, .count = kPages}));
  // first + count is 0 again.
  EXPECT_FALSE(placer_->Contains({.first = 1, .count = ~uint64_t{0}}));
  EXPECT_FALSE(placer_->Contains({.first = ~uint64_t{0}, .count = 1}));
}

TEST_P(PlacerTest, WhatLandsIsPresentAndZeroMakesItAHoleAgain) {
  Land({.first = 4, .count = 8}, 0x5a);
  EXPECT_TRUE(All({.first = 4, .count = 8}, 0x5a));
  EXPECT_EQ(states_->missing(), kPages - 8);
  // Pages 6 and 7 have become zero, 20 to 29 always were.
  ASSERT_TRUE(placer_->FillZero({.first = 6, .count = 2}).ok());
  ASSERT_TRUE(placer_->FillZero({.first = 20, .count = 10}).ok());
  // Before they are read, which fills holes.
  const auto resident = region_->ResidentBytes();
  ASSERT_TRUE(resident.ok()) << resident.status();
  EXPECT_EQ(*resident, 6 * kPageBytes);
  EXPECT_TRUE(All({.first = 6, .count = 2}, 0));
  EXPECT_TRUE(All({.first = 4, .count = 2}, 0x5a));
  EXPECT_TRUE(All({.first = 8, .count = 4}, 0x5a));
  EXPECT_EQ(states_->missing(), kPages - 18);
}

// R1: what is out of date is not there, and is asked for when the guest wants
// it.
TEST_P(PlacerTest, DiscardedPageIsAbsentAndFaults) {
  Land({.first = 0, .count = kPages}, 0x11);
  ASSERT_TRUE(placer_->Discard({.first = 3, .count = 2}).ok());
  EXPECT_EQ(states_->Get(3), PageState::kAbsent);
  EXPECT_EQ(states_->Get(5), PageState::kPresent);
  EXPECT_EQ(states_->missing(), 2u);
  Arm();
  EXPECT_EQ(At(5), 0x11);
  EXPECT_EQ(ReadWhile(3,
                      [&] {
                        ASSERT_EQ(placer_->Claim({.first = 3, .count = 1}).run, (PageRun{.first = 3, .count = 1}));
                        ASSERT_TRUE(Fill({.first = 3, .count = 1}, 0x22).ok());
                      }),
            0x22);
  EXPECT_EQ(states_->missing(), 1u);
}

TEST_P(PlacerTest, PageIsClaimedOnceAndGivenUpOnce) {
  Arm();
  EXPECT_EQ(placer_->Claim({.first = 10, .count = 4}).run, (PageRun{.first = 10, .count = 4}));
  EXPECT_EQ(placer_->Claim({.first = 10, .count = 4}).run.count, 0u);
  // What is before somebody else's page can be had.
  EXPECT_EQ(placer_->Claim({.first = 8, .count = 6}).run, (PageRun{.first = 8, .count = 2}));
  placer_->Abandon({.first = 10, .count = 4});
  EXPECT_EQ(states_->Get(10), PageState::kRequested) << "R4: recovery asks for it again";
  EXPECT_EQ(placer_->Claim({.first = 10, .count = 4}).run, (PageRun{.first = 10, .count = 4}));
}

// R1: between the read and Show() the guest sees nothing of the page.
TEST_P(PlacerTest, PageIsNotSeenBeforeItIsShown) {
  Arm();
  const PageRun run{.first = 1, .count = 1};
  ASSERT_EQ(placer_->Claim(run).run, run);
  const std::span<uint8_t> window = *placer_->StageTarget(run, Showing::kAtOnce);
  if (!window.empty()) {
    std::fill(window.begin(), window.begin() + 100, 0x33);
  }
  EXPECT_EQ(ReadWhile(1, [&] { ASSERT_TRUE(Fill(run, 0x44).ok()); }), 0x44);
  EXPECT_TRUE(All(run, 0x44));
}

// R1: what the guest has seen, and may have written to, is not filled again because of what is behind it.
TEST_P(PlacerTest, RunThatIsShownInPartKeepsWhatWasShown) {
  Arm();
  const PageRun run{.first = 4, .count = 8};
  ASSERT_EQ(placer_->Claim(run).run, run);
  const std::span<uint8_t> window = *placer_->StageTarget(run, Showing::kAtOnce);
  void* const buffer = mmap(nullptr, 8 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(buffer, MAP_FAILED);
  // The kernel finds nothing to show from the page 8 on.
  ASSERT_EQ(mprotect(static_cast<uint8_t*>(buffer) + 4 * kPageBytes, 4 * kPageBytes, PROT_NONE), 0);
  if (!window.empty()) {
    std::fill(window.begin(), window.end(), 0x11);
    ASSERT_TRUE(region_->Discard(8 * kPageBytes, 4 * kPageBytes).ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(placer_->Publish(run, static_cast<uint8_t*>(buffer))));
  EXPECT_EQ(states_->Get(4), PageState::kPresent);
  EXPECT_EQ(states_->Get(7), PageState::kPresent);
  EXPECT_EQ(states_->Get(8), PageState::kRequested);
  EXPECT_EQ(states_->Get(11), PageState::kRequested);
  munmap(buffer, 8 * kPageBytes);
}

TEST_P(PlacerTest, ZeroPageWakesWhoWaitsAndLeavesWhatIsThere) {
  Land({.first = 0, .count = 1}, 0x66);
  Arm();
  EXPECT_EQ(ReadWhile(2,
                      [&] {
                        const auto news = placer_->PublishZero({.first = 0, .count = 8}, Showing::kAtOnce);
                        ASSERT_TRUE(news.ok()) << news.status();
                        EXPECT_EQ(*news, 7u) << "page 0 was there";
                        // It faults anew, on a page that is present now.
                        ExpectFault(2);
                        ASSERT_TRUE(placer_->ResolvePresent(2).ok());
                      }),
            0);
  EXPECT_EQ(At(0), 0x66);
}

TEST_P(PlacerTest, MemoryIsTheKernelsAgainWhenDisarmed) {
  Land({.first = 0, .count = 4}, 0x77);
  Arm();
  const auto news = placer_->PublishZero({.first = 4, .count = kPages - 4}, Showing::kAtOnce);
  ASSERT_TRUE(news.ok()) << news.status();
  EXPECT_EQ(states_->missing(), 0u);
  ASSERT_TRUE(placer_->Disarm().ok());
  // Nobody answers faults any more.
  EXPECT_TRUE(All({.first = 4, .count = kPages - 4}, 0));
  EXPECT_TRUE(All({.first = 0, .count = 4}, 0x77));
  EXPECT_TRUE(region_->alias_mapping().empty());
}

TEST_P(PlacerTest, PiecesCoverAllAndEndAtBoundaries) {
  PageRun rest{.first = 5, .count = (uint64_t{1} << 17) + 3};
  uint64_t at = rest.first;
  const uint64_t end = rest.first + rest.count;
  int pieces = 0;
  while (rest.count > 0) {
    const PageRun piece = placer_->TakePiece(rest);
    EXPECT_EQ(piece.first, at);
    ASSERT_GT(piece.count, 0u);
    at += piece.count;
    EXPECT_TRUE(at == end || at % (uint64_t{1} << 16) == 0) << at;
    ++pieces;
  }
  EXPECT_EQ(at, end);
  EXPECT_EQ(pieces, 3);
}

TEST_P(PlacerTest, LackOfMemorySaysWhoseAndWhatLimitsIt) {
  const absl::Status said = placer_->Explain(absl::ResourceExhaustedError("map pages: Cannot allocate memory"));
  EXPECT_TRUE(absl::IsResourceExhausted(said));
  EXPECT_TRUE(absl::StrContains(said.message(), "ram")) << said;
  EXPECT_TRUE(absl::StrContains(said.message(), MemoryBackingName(GetParam()))) << said;
  EXPECT_EQ(placer_->Explain(absl::AbortedError("x")), absl::AbortedError("x"));
}

TEST(PlacerFeaturesTest, KernelThatCannotIsToldBeforeAnythingMoves) {
  const UserfaultFeatures none;
  EXPECT_TRUE(MemoryPlacer::CanArm(MemoryBacking::kAnonymous, none).ok());
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kHugetlb2M, MemoryBacking::kHugetlb1G}) {
    const absl::Status cannot = MemoryPlacer::CanArm(backing, none);
    EXPECT_TRUE(absl::IsFailedPrecondition(cannot)) << cannot;
    EXPECT_TRUE(absl::StrContains(cannot.message(), MemoryBackingName(backing))) << cannot;
  }
  UserfaultFeatures shmem;
  shmem.missing_shmem = true;
  EXPECT_TRUE(MemoryPlacer::CanArm(MemoryBacking::kMemfd, shmem).ok());
  UserfaultFeatures hugetlb;
  hugetlb.missing_hugetlb = true;
  EXPECT_FALSE(MemoryPlacer::CanArm(MemoryBacking::kHugetlb2M, hugetlb).ok());
  hugetlb.minor_hugetlb = true;
  EXPECT_TRUE(MemoryPlacer::CanArm(MemoryBacking::kHugetlb2M, hugetlb).ok());
  EXPECT_FALSE(MemoryPlacer::CanArm(MemoryBacking::kMemfd, hugetlb).ok());
}

INSTANTIATE_TEST_SUITE_P(Backings, PlacerTest, testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const auto& info) { return std::string(MemoryBackingName(info.param)); });

}  // namespace
}  // namespace ferrite::migration
