// Pages that come as lost (R9), over a stream and in place.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "memory/bus_fault.h"
#include "memory/guest_memory.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/placing/memory_landing.h"
#include "migration/placing/memory_placer.h"
#include "migration/placing/page_receiver.h"
#include "migration/placing/placement.h"
#include "migration/placing/userfault.h"
#include "migration/protocol/lost_filler.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = 8 << 20;
constexpr uint64_t kPages = kBytes / kPageBytes;

class LostPageTest : public testing::TestWithParam<MemoryBacking> {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::Create(kBytes, GetParam());
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    ASSERT_EQ(region().SetThp(true), absl::OkStatus());
    landing_ = std::make_unique<MemoryLanding>(*memory_, RealClock());
    IncomingPart* const parts[] = {landing_.get()};
    placement_ = std::make_unique<Placement>(parts);
    auto ends = MakeStreamPair();
    ASSERT_TRUE(ends.ok());
    source_ = std::move(ends->first);
    feed_ = std::make_unique<StreamPageFeed>(std::move(ends->second));
    receiver_ = std::make_unique<PageReceiver>(*feed_, *placement_, figures_, Showing::kGathered);
  }
  void Arm() {
    ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
    ASSERT_EQ(landing_->placer(0).Arm(landing_->userfault()), absl::OkStatus());
  }

  static uint8_t ByteOf(uint64_t page) { return static_cast<uint8_t>(page % 251 + 1); }

  // Pages come; those of `gone` were lost on their way out, and `spoilt` was changed.
  void Receive(PageRun run, bool live, const std::vector<uint64_t>& gone = {}, uint64_t spoilt = kPages) {
    std::vector<uint8_t> content;
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      content.insert(content.end(), kPageBytes, ByteOf(page));
    }
    std::vector<uint32_t> sums(run.count);
    SumPages(content, sums);
    for (const uint64_t page : gone) {
      std::copy_n(LostFiller().begin(), kPageBytes,
                  content.begin() + static_cast<ptrdiff_t>((page - run.first) * kPageBytes));
    }
    if (spoilt < kPages) {
      content[(spoilt - run.first) * kPageBytes] ^= 1;
    }
    const auto header = EncodePageHeader(
        {.type = PageFrameType::kPages, .first_page = run.first, .count = static_cast<uint32_t>(run.count)});
    Thread sender = StartOrDie("sender", [&] {
      EXPECT_TRUE(source_->WriteAll(header).ok());
      EXPECT_TRUE(source_->WriteAll(std::span(reinterpret_cast<const uint8_t*>(sums.data()), 4 * sums.size())).ok());
      EXPECT_TRUE(source_->WriteAll(std::span<const uint8_t>(content)).ok());
    });
    const auto received = receiver_->ReceiveOne(live);
    EXPECT_TRUE(received.ok()) << received.status();
  }
  void ReceiveLost(PageRun run, bool live) {
    const auto header = EncodePageHeader(
        {.type = PageFrameType::kPoison, .first_page = run.first, .count = static_cast<uint32_t>(run.count)});
    EXPECT_TRUE(source_->WriteAll(header).ok());
    const auto received = receiver_->ReceiveOne(live);
    EXPECT_TRUE(received.ok()) << received.status();
  }

  // These are lost for who touches them, and listed; the others of `run` are as they came.
  void ExpectLost(PageRun run, const std::vector<uint64_t>& lost) {
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      SCOPED_TRACE(page);
      const uint8_t* const at = region().guest_mapping().data() + page * kPageBytes;
      uint8_t byte = ByteOf(page);
      const bool hit = TouchMemory([&] { byte = *static_cast<const volatile uint8_t*>(at); }).has_value();
      EXPECT_EQ(byte, ByteOf(page));
      const bool expected = std::find(lost.begin(), lost.end(), page) != lost.end();
      EXPECT_EQ(hit, expected);
      EXPECT_EQ(region().IsLost(page * kPageBytes), expected);
      EXPECT_EQ(StateOf(page), expected ? PageState::kPoisoned : PageState::kPresent);
    }
  }
  PageState StateOf(uint64_t page) const { return placement_->states(0).Get(page); }
  MemoryRegion& region() const { return *memory_->regions()[0]; }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<MemoryLanding> landing_;
  std::unique_ptr<Placement> placement_;
  ReceiveFigures figures_;
  std::unique_ptr<Stream> source_;
  std::unique_ptr<StreamPageFeed> feed_;
  std::unique_ptr<PageReceiver> receiver_;
};

// What came before does not survive it, until the page comes after all, or is out of date.
TEST_P(LostPageTest, PageThatIsLostInARound) {
  for (const bool postcopy : {false, true}) {
    SCOPED_TRACE(postcopy);
    ASSERT_NO_FATAL_FAILURE(SetUp());
    Receive({0, 512}, /*live=*/false);
    Receive({100, 1}, /*live=*/false, {}, /*spoilt=*/100);
    ReceiveLost({100, 2}, /*live=*/false);
    EXPECT_EQ(placement_->doubtful().Count(), 0u);
    ReceiveLost({512, 1}, /*live=*/false);
    ReceiveLost({700, 1}, /*live=*/false);
    // A guest that writes that looks like it: the source says what is lost.
    Receive({10, 4}, /*live=*/false, {11, 12});
    EXPECT_EQ(placement_->doubtful().Count(), 2u);
    ReceiveLost({11, 1}, /*live=*/false);
    Receive({12, 1}, /*live=*/false);
    EXPECT_EQ(placement_->doubtful().Count(), 0u);
    // The source has healed it: 100 is good, of 101 nothing came.
    Receive({99, 2}, /*live=*/false);
    EXPECT_EQ(placement_->missing(), kPages - 514);
    ASSERT_TRUE(landing_->placer(0).Discard({.first = 700, .count = 1}).ok());
    EXPECT_EQ(StateOf(700), PageState::kAbsent);
    EXPECT_EQ(placement_->missing(), kPages - 513);
    if (postcopy) {
      ASSERT_NO_FATAL_FAILURE(Arm());
    } else {
      ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
    }
    ASSERT_EQ(landing_->ShowPoisoned(), absl::OkStatus());
    ExpectLost({0, 513}, {11, 101, 512});
    EXPECT_EQ(memory_->LostPages().size(), 3u);
    receiver_.reset();
  }
}

// A kernel before Linux 6.6, or one that gives us no userfaultfd.
TEST_P(LostPageTest, KernelThatCannotMarkAPage) {
  Receive({0, 8}, /*live=*/false);
  ReceiveLost({3, 1}, /*live=*/false);
  ASSERT_EQ(landing_->ShowPoisoned(), absl::OkStatus());
  ExpectLost({0, 8}, {3});
  ASSERT_EQ(region().HideLost(3 * kPageBytes), absl::OkStatus()) << "again";
  // It is good again when it is given back.
  ASSERT_TRUE(region().Discard(2 * kPageBytes, 3 * kPageBytes).ok());
  EXPECT_TRUE(memory_->LostPages().empty());
  EXPECT_EQ(memory_->ReadObject<uint64_t>(GuestAddress(3 * kPageBytes)).value_or(1), 0u);
  EXPECT_EQ(memory_->WriteObject<uint64_t>(GuestAddress(3 * kPageBytes), 7), absl::OkStatus());
  EXPECT_EQ(*region().ResidentBytes(), 6 * kPageBytes);
  ASSERT_TRUE(region().Discard(3 * kPageBytes, kPageBytes).ok());
  EXPECT_EQ(*region().ResidentBytes(), 5 * kPageBytes) << "it is where its neighbours are";
}

// R1: a page that could not be marked is not here: the next connection asks for it again.
TEST_P(LostPageTest, PageThatCannotBeMarkedIsStillMissing) {
  constexpr uint64_t kPoisonFeature = uint64_t{1} << 14;
  const auto userfault = Userfault::Create(OpenUserfault, Userfault::WantedFeatures() & ~kPoisonFeature);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  MemoryPlacer& placer = landing_->placer(0);
  ASSERT_EQ(placer.Arm(**userfault), absl::OkStatus());
  const uint64_t missing = placement_->missing();
  {
    rlimit none{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &none), 0);
    const rlimit before = none;
    none.rlim_cur = 0;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    EXPECT_FALSE(placer.PublishPoison({.first = 8, .count = 1}).ok());
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  }
  EXPECT_EQ(StateOf(8), PageState::kRequested);
  EXPECT_EQ(placement_->missing(), missing);
  EXPECT_FALSE(region().IsLost(8 * kPageBytes));
  EXPECT_EQ(placer.PublishPoison({.first = 8, .count = 1}).value_or(0), 1u);
  EXPECT_EQ(StateOf(8), PageState::kPoisoned);
  EXPECT_TRUE(region().IsLost(8 * kPageBytes));
}

TEST_P(LostPageTest, KernelThatCannotMarkAPageBehindTheSwitchover) {
  constexpr uint64_t kPoisonFeature = uint64_t{1} << 14;
  const auto userfault = Userfault::Create(OpenUserfault, Userfault::WantedFeatures() & ~kPoisonFeature);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  MemoryPlacer& placer = landing_->placer(0);
  Receive({0, 8}, /*live=*/false);
  ReceiveLost({2, 1}, /*live=*/false);
  ASSERT_EQ(placer.Arm(**userfault), absl::OkStatus());
  ASSERT_EQ(placer.ShowPoisoned(nullptr), absl::OkStatus());
  ReceiveLost({8, 2}, /*live=*/true);
  Receive({10, 6}, /*live=*/true, {12});
  ASSERT_EQ(placer.ResolvePoisoned(9), absl::OkStatus()) << "for who came late";
  receiver_.reset();
  ExpectLost({0, 16}, {2, 8, 9, 12});
  ASSERT_TRUE(placer.PublishZero({.first = 16, .count = kPages - 16}, Showing::kAtOnce).ok());
  ASSERT_EQ(placer.Disarm(), absl::OkStatus());
  ExpectLost({0, 16}, {2, 8, 9, 12});
  EXPECT_EQ(memory_->ReadObject<uint8_t>(GuestAddress(20 * kPageBytes)).value_or(1), 0);
}

TEST_P(LostPageTest, PageThatIsLostBehindTheSwitchover) {
  Receive({1500, 1}, /*live=*/false);
  ASSERT_NO_FATAL_FAILURE(Arm());
  ReceiveLost({1499, 2}, /*live=*/true);
  EXPECT_EQ(StateOf(1500), PageState::kPresent) << "it was lost when it had left";
  // In a block that is gathered where that can be, and in one that has something already.
  Receive({512, 200}, /*live=*/true, {512, 519, 520, 711});
  ReceiveLost({712, 1}, /*live=*/true);
  Receive({713, 311}, /*live=*/true);
  Receive({1501, 3}, /*live=*/true, {1501, 1502, 1503});
  receiver_.reset();
  ExpectLost({512, 512}, {512, 519, 520, 711, 712});
  ExpectLost({1499, 5}, {1499, 1501, 1502, 1503});
  EXPECT_EQ(memory_->LostPages().size(), 9u);
}

INSTANTIATE_TEST_SUITE_P(Backings, LostPageTest, testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const auto& info) { return std::string(MemoryBackingName(info.param)); });

}  // namespace
}  // namespace ferrite::migration
