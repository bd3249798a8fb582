#include "devices/balloon/balloon.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/monotonic.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

constexpr uint64_t kMemoryBytes = uint64_t{32} << 20;
constexpr uint64_t kPages = kMemoryBytes / kPageBytes;
constexpr uint32_t kFree = kPages / 2;  // the first page frame that is not the harness's
constexpr uint16_t kInflate = 0;
constexpr uint16_t kDeflate = 1;
constexpr uint16_t kStatistics = 2;
constexpr uint64_t kNumPagesOffset = 0;
constexpr uint64_t kActualOffset = 4;

using Frames = std::vector<uint32_t>;

class BalloonTest : public testing::Test {
 protected:
  explicit BalloonTest(uint64_t memory_bytes = kMemoryBytes) : harness_(memory_bytes) {
    Attach(0);
    harness_.Start(harness_.driver().OfferedFeatures());
  }

  void Attach(uint64_t target) {
    auto balloon = std::make_unique<Balloon>(harness_.memory(), target);
    balloon_ = balloon.get();
    harness_.Attach(std::move(balloon));
  }
  MemoryRegion& ram() { return *harness_.memory().regions()[0]; }
  uint8_t* Page(uint64_t frame) { return ram().guest_mapping().data() + frame * kPageBytes; }
  void Fill(uint64_t frame, uint64_t count) { std::memset(Page(frame), 0x5a, count * kPageBytes); }
  bool IsZero(uint64_t frame) {
    return std::all_of(Page(frame), Page(frame) + kPageBytes, [](uint8_t byte) { return byte == 0; });
  }
  static Frames Run(uint32_t first, uint32_t count) {
    Frames frames;
    for (uint32_t i = 0; i < count; ++i) {
      frames.push_back(first + i);
    }
    return frames;
  }
  // A request that has to be answered.
  void Send(uint16_t queue, const Frames& frames) {
    harness_.queue(queue)
        .Chain()
        .Readable({reinterpret_cast<const uint8_t*>(frames.data()), frames.size() * sizeof(uint32_t)})
        .Submit();
    harness_.Kick(queue);
    const auto used = harness_.queue(queue).TakeUsed();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->written, 0u);
  }
  BalloonPages::Range RangeOf(uint64_t frame, uint64_t count) {
    return {GuestAddress(frame * kPageBytes), count * kPageBytes};
  }

  VirtioHarness harness_;
  Balloon* balloon_ = nullptr;
};

TEST_F(BalloonTest, InflatedMemoryGoesBackToTheHost) {
  Fill(kFree, 1024);
  const uint64_t before = *ram().ResidentBytes();
  Send(kInflate, Run(kFree, 256));
  Send(kInflate, Run(kFree + 256, 256));
  EXPECT_EQ(balloon_->reclaimed(), 512 * kPageBytes);
  EXPECT_EQ(before - *ram().ResidentBytes(), 512 * kPageBytes);
  EXPECT_TRUE(IsZero(kFree));
  EXPECT_FALSE(IsZero(kFree + 512));
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree, 512)});
}

TEST_F(BalloonTest, PagesComeInAnyOrderTwiceAndOutsideOfRam) {
  Fill(kFree, 8);
  Send(kInflate, {kFree + 3, kFree + 1, kFree + 3, kFree + 2, 0xffff'ffff, static_cast<uint32_t>(kPages), kFree + 6});
  EXPECT_EQ(balloon_->InflatedRanges(), (std::vector{RangeOf(kFree + 1, 3), RangeOf(kFree + 6, 1)}));
  EXPECT_EQ(balloon_->reclaimed(), 4 * kPageBytes);
  Send(kDeflate, {kFree + 2, kFree + 2, 0xffff'ffff, kFree + 7});
  EXPECT_EQ(balloon_->InflatedRanges(),
            (std::vector{RangeOf(kFree + 1, 1), RangeOf(kFree + 3, 1), RangeOf(kFree + 6, 1)}));
  EXPECT_FALSE(harness_.driver().needs_reset());
}

TEST_F(BalloonTest, DeflatedMemoryIsTheGuestsAgain) {
  Send(kInflate, Run(kFree, 4));
  Send(kDeflate, Run(kFree, 4));
  Fill(kFree, 4);
  Send(kInflate, Run(kFree + 8, 4));
  EXPECT_FALSE(IsZero(kFree));
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree + 8, 4)});
}

TEST_F(BalloonTest, TargetIsToldToTheDriver) {
  harness_.interrupt().Take();
  ASSERT_TRUE(balloon_->SetTarget(10 * kPageBytes + 1).ok());
  EXPECT_EQ(harness_.interrupt().Take(), 1u);
  EXPECT_EQ(harness_.driver().TakeInterruptStatus(), kInterruptConfigChange);
  EXPECT_EQ(harness_.driver().ReadConfig<uint32_t>(kNumPagesOffset), 10u);
  EXPECT_EQ(balloon_->target(), 10 * kPageBytes);
  ASSERT_TRUE(balloon_->SetTarget(10 * kPageBytes).ok());
  EXPECT_EQ(harness_.interrupt().Take(), 0u) << "nothing changed";
  EXPECT_FALSE(balloon_->SetTarget(kMemoryBytes + 1).ok());
  EXPECT_EQ(balloon_->target(), 10 * kPageBytes);
}

TEST_F(BalloonTest, TargetAtStartIsThereWhenTheDriverComes) {
  Attach(UINT64_MAX);
  EXPECT_EQ(balloon_->target(), kMemoryBytes);
  harness_.Start(harness_.driver().OfferedFeatures());
  EXPECT_EQ(harness_.driver().ReadConfig<uint32_t>(kNumPagesOffset), kPages);
}

TEST_F(BalloonTest, ActualIsWhatTheDriverSays) {
  std::vector<uint64_t> heard;
  balloon_->SetListener([&](uint64_t bytes) { heard.push_back(bytes); });
  harness_.driver().WriteConfig<uint32_t>(kActualOffset, 7);
  harness_.driver().WriteConfig<uint32_t>(kActualOffset, 7);
  EXPECT_EQ(balloon_->actual(), 7 * kPageBytes);
  EXPECT_EQ(harness_.driver().ReadConfig<uint32_t>(kActualOffset), 7u);
  // Of odd widths and elsewhere: ignored.
  harness_.driver().WriteConfig<uint8_t>(kActualOffset, 1);
  harness_.driver().WriteConfig<uint16_t>(kActualOffset, 1);
  harness_.driver().WriteConfig<uint64_t>(kActualOffset, 1);
  harness_.driver().WriteConfig<uint32_t>(kActualOffset + 1, 1);
  harness_.driver().WriteConfig<uint32_t>(kNumPagesOffset, 1);
  harness_.driver().WriteConfig<uint64_t>(0xe00, 1);
  EXPECT_EQ(harness_.driver().ReadConfig<uint64_t>(kNumPagesOffset), uint64_t{7} << 32);
  EXPECT_EQ(harness_.driver().ReadConfig<uint64_t>(kActualOffset + 1), 0u) << "the rest reads as zero";
  EXPECT_EQ(harness_.driver().ReadConfig<uint64_t>(0xe00), 0u);
  harness_.driver().WriteConfig<uint32_t>(kActualOffset, UINT32_MAX);
  EXPECT_EQ(balloon_->actual(), kMemoryBytes);
  EXPECT_EQ(heard, (std::vector<uint64_t>{7 * kPageBytes, kMemoryBytes}));
}

TEST_F(BalloonTest, DriverResetGivesAllBack) {
  Send(kInflate, Run(kFree, 4));
  harness_.driver().WriteConfig<uint32_t>(kActualOffset, 4);
  harness_.driver().Reset();
  EXPECT_TRUE(balloon_->InflatedRanges().empty());
  EXPECT_EQ(balloon_->actual(), 0u);
}

TEST_F(BalloonTest, WrongListsNeedAReset) {
  const std::vector<std::function<void(ChainBuilder)>> lists = {
      [](ChainBuilder chain) { chain.Readable(std::vector<uint8_t>(6)).Submit(); },
      [](ChainBuilder chain) { chain.Writable(8).Submit(); },
      [](ChainBuilder chain) { chain.Readable(std::vector<uint8_t>(8)).Writable(8).Submit(); },
  };
  for (const uint16_t queue : {kInflate, kDeflate}) {
    for (size_t i = 0; i < lists.size(); ++i) {
      harness_.Start(harness_.driver().OfferedFeatures());
      lists[i](harness_.queue(queue).Chain());
      harness_.Kick(queue);
      EXPECT_TRUE(harness_.driver().needs_reset()) << "queue " << queue << ", list " << i;
      EXPECT_FALSE(harness_.queue(queue).HasUsed());
      EXPECT_TRUE(balloon_->InflatedRanges().empty());
    }
  }
}

// Nothing limits a list (§5.5.6.1): a long one is taken in several passes, and answered once.
TEST_F(BalloonTest, LongListsAreTakenInShares) {
  constexpr uint64_t kShare = 32768;
  Frames frames(2 * kShare, kFree);
  frames.front() = kFree + 1;
  frames[kShare] = kFree + 2;
  frames.push_back(kFree + 3);
  Fill(kFree, 4);
  Send(kInflate, frames);
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree, 4)});
  EXPECT_TRUE(IsZero(kFree + 3));
  Send(kDeflate, frames);
  EXPECT_TRUE(balloon_->InflatedRanges().empty());
  Send(kInflate, {kFree + 5});
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree + 5, 1)}) << "the next list is taken from its start";
}

TEST_F(BalloonTest, ALongListOutlastsAPauseAndASave) {
  constexpr uint64_t kShare = 32768;
  Frames frames(kShare, kFree);
  frames.push_back(kFree + 1);
  harness_.queue(kInflate)
      .Chain()
      .Readable({reinterpret_cast<const uint8_t*>(frames.data()), frames.size() * sizeof(uint32_t)})
      .Submit();
  {
    // The first share.
    absl::MutexLock lock(&balloon_->mutex());
    ASSERT_TRUE(balloon_->ProcessQueue(kInflate).ok());
  }
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree, 1)});
  EXPECT_FALSE(harness_.queue(kInflate).HasUsed());
  harness_.transport().Quiesce();
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  harness_.transport().Save(state);
  harness_.transport().Reset();
  ASSERT_TRUE(harness_.transport().CheckState(state.asReader()).ok());
  harness_.transport().LoadState(state.asReader());
  harness_.transport().Resume();
  harness_.loop().RunReady();
  EXPECT_TRUE(harness_.queue(kInflate).HasUsed());
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree, 2)});
}

// What clients are told and ask for waits for no work of the guest's.
TEST_F(BalloonTest, FiguresAndTargetNeedNotTheDevice) {
  harness_.driver().WriteConfig<uint32_t>(kActualOffset, 7);
  harness_.interrupt().Take();
  TimedNotification done;
  Thread client;
  {
    // A pass that does not end.
    absl::MutexLock lock(&balloon_->mutex());
    client = StartOrDie("client", [&] {
      EXPECT_EQ(balloon_->target(), 0u);
      EXPECT_EQ(balloon_->actual(), 7 * kPageBytes);
      EXPECT_EQ(balloon_->reclaimed(), 0u);
      EXPECT_FALSE(balloon_->statistics().has_value());
      EXPECT_TRUE(balloon_->SetTarget(9 * kPageBytes).ok());
      EXPECT_TRUE(balloon_->RequestStatistics().ok());
      EXPECT_EQ(balloon_->target(), 9 * kPageBytes);
      done.Notify();
    });
    EXPECT_TRUE(done.WaitFor(kPatience)) << "it waits for the device";
  }
  client.Join();
  harness_.loop().RunReady();
  EXPECT_EQ(harness_.driver().ReadConfig<uint32_t>(kNumPagesOffset), 9u);
  EXPECT_EQ(harness_.interrupt().Take(), 1u);
}

// Inhibition, R8.

TEST_F(BalloonTest, WhileInhibitedReclaimWaitsAndHappensAfterwards) {
  Fill(kFree, 8);
  auto move = balloon_->inhibitor().Inhibit("move");
  auto snapshot = balloon_->inhibitor().Inhibit("snapshot");
  EXPECT_EQ(balloon_->inhibitor().reasons(), (std::vector<std::string>{"move", "snapshot"}));
  Send(kInflate, Run(kFree, 8));
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree, 8)});
  Send(kDeflate, {kFree + 2});
  std::memset(Page(kFree + 2), 0x77, kPageBytes);
  move.Release();
  harness_.loop().RunReady();
  EXPECT_FALSE(IsZero(kFree)) << "a reason is left";
  EXPECT_EQ(balloon_->reclaimed(), 0u);
  snapshot = {};
  harness_.loop().RunReady();
  EXPECT_FALSE(balloon_->inhibitor().inhibited());
  EXPECT_TRUE(IsZero(kFree));
  EXPECT_TRUE(IsZero(kFree + 7));
  EXPECT_EQ(Page(kFree + 2)[0], 0x77) << "taken out meanwhile: the guest's";
  EXPECT_EQ(balloon_->reclaimed(), 7 * kPageBytes);
}

TEST_F(BalloonTest, PostponedReclaimWaitsForResume) {
  Fill(kFree, 1);
  auto token = balloon_->inhibitor().Inhibit("move");
  Send(kInflate, {kFree});
  harness_.transport().Quiesce();
  token.Release();
  harness_.loop().RunReady();
  EXPECT_FALSE(IsZero(kFree)) << "a quiesced device changes no memory";
  harness_.transport().Resume();
  harness_.loop().RunReady();
  EXPECT_TRUE(IsZero(kFree));
}

TEST_F(BalloonTest, PostponedPagesOfADriverThatIsGoneAreNotReclaimed) {
  Fill(kFree, 1);
  auto token = balloon_->inhibitor().Inhibit("move");
  Send(kInflate, {kFree});
  harness_.Start(harness_.driver().OfferedFeatures());
  token.Release();
  harness_.loop().RunReady();
  EXPECT_FALSE(IsZero(kFree));
}

TEST_F(BalloonTest, WhileInhibitedATargetIsRememberedAndToldAfterwards) {
  auto token = balloon_->inhibitor().Inhibit("move");
  harness_.interrupt().Take();
  ASSERT_TRUE(balloon_->SetTarget(5 * kPageBytes).ok());
  EXPECT_EQ(balloon_->target(), 5 * kPageBytes);
  EXPECT_EQ(harness_.driver().ReadConfig<uint32_t>(kNumPagesOffset), 0u);
  EXPECT_EQ(harness_.interrupt().Take(), 0u);
  token.Release();
  EXPECT_EQ(harness_.driver().ReadConfig<uint32_t>(kNumPagesOffset), 5u);
  EXPECT_EQ(harness_.interrupt().Take(), 1u);
}

TEST_F(BalloonTest, TokenMovesAndReleasesOnce) {
  BalloonInhibitor& inhibitor = balloon_->inhibitor();
  BalloonInhibitor::Token outer;
  {
    BalloonInhibitor::Token inner = inhibitor.Inhibit("a");
    outer = std::move(inner);
  }
  EXPECT_TRUE(inhibitor.inhibited());
  outer = inhibitor.Inhibit("b");
  EXPECT_EQ(inhibitor.reasons(), std::vector<std::string>{"b"});
  outer.Release();
  outer.Release();
  EXPECT_FALSE(inhibitor.inhibited());
}

TEST_F(BalloonTest, ADriverThatNeedNotTellTheHostHasItsPagesReclaimedNowOrNever) {
  harness_.Start(virtio::kFeatureVersion1);
  Fill(kFree, 2);
  {
    auto token = balloon_->inhibitor().Inhibit("move");
    Send(kInflate, {kFree});
  }
  harness_.loop().RunReady();
  EXPECT_FALSE(IsZero(kFree)) << "it may be in use again";
  Send(kInflate, {kFree + 1});
  EXPECT_TRUE(IsZero(kFree + 1));
  EXPECT_TRUE(balloon_->InflatedRanges().empty());
}

// Lists that take several passes, of a driver that need not tell the host: nothing is answered before all of it is
// done.
class ScatteredBalloonTest : public BalloonTest {
 protected:
  static constexpr uint32_t kScattered = 1500;

  // Every other page, and the first pass over them.
  void StartList() {
    harness_.Start(virtio::kFeatureVersion1);
    Fill(kFree, 2 * kScattered);
    Frames frames;
    for (uint32_t i = 0; i < kScattered; ++i) {
      frames.push_back(kFree + 2 * i);
    }
    harness_.queue(kInflate)
        .Chain()
        .Readable({reinterpret_cast<const uint8_t*>(frames.data()), frames.size() * sizeof(uint32_t)})
        .Submit();
    absl::MutexLock lock(&balloon_->mutex());
    ASSERT_TRUE(balloon_->ProcessQueue(kInflate).ok());
  }
  uint32_t Zeros() {
    uint32_t zeros = 0;
    for (uint32_t i = 0; i < kScattered; ++i) {
      zeros += IsZero(kFree + 2 * i) ? 1 : 0;
      EXPECT_FALSE(IsZero(kFree + 2 * i + 1));
    }
    return zeros;
  }
  bool Answered() { return harness_.queue(kInflate).HasUsed(); }
};

TEST_F(ScatteredBalloonTest, IsAnsweredOnceAllOfItWasGivenBack) {
  StartList();
  EXPECT_GT(Zeros(), 0u);
  EXPECT_LT(Zeros(), kScattered);
  EXPECT_FALSE(Answered());
  harness_.Kick(kInflate);
  EXPECT_TRUE(Answered());
  EXPECT_EQ(Zeros(), kScattered);
  EXPECT_EQ(balloon_->reclaimed(), kScattered * kPageBytes);
}

TEST_F(ScatteredBalloonTest, OutlastsAPauseAndASave) {
  StartList();
  EXPECT_TRUE(balloon_->InflatedRanges().empty()) << "not in the balloon: it may be in use without a word";
  harness_.transport().Quiesce();
  harness_.loop().RunReady();
  EXPECT_FALSE(Answered());
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  harness_.transport().Save(state);
  EXPECT_EQ(state.asReader().getVirtioMmio().getBalloon().getInflated().size(), 0u);
  harness_.transport().Reset();
  ASSERT_TRUE(harness_.transport().CheckState(state.asReader()).ok());
  harness_.transport().LoadState(state.asReader());
  harness_.transport().Resume();
  harness_.loop().RunReady();
  EXPECT_TRUE(Answered());
  EXPECT_EQ(Zeros(), kScattered);
}

TEST_F(ScatteredBalloonTest, IsAnsweredAsItIsWhenAMoveBegins) {
  StartList();
  const uint32_t before = Zeros();
  {
    auto token = balloon_->inhibitor().Inhibit("move");
    harness_.Kick(kInflate);
    EXPECT_TRUE(Answered());
  }
  harness_.loop().RunReady();
  EXPECT_EQ(Zeros(), before) << "the guest may use the others again";
}

TEST_F(ScatteredBalloonTest, IsForgottenWithItsQueue) {
  StartList();
  const uint32_t before = Zeros();
  harness_.driver().Write(kMmioQueueSelect, kInflate);
  harness_.driver().Write(kMmioQueueReady, 0);
  QueueDriver queue(harness_.arena(), 8);
  ASSERT_TRUE(harness_.driver().SetUpQueue(kInflate, queue.addresses()));
  harness_.Kick(kInflate);
  EXPECT_EQ(Zeros(), before);
}

// Statistics, §5.5.6.3.

#pragma pack(push, 1)
struct Statistic {
  uint16_t tag;
  uint64_t value;
};
#pragma pack(pop)

TEST_F(BalloonTest, StatisticsComeWhenAskedFor) {
  EXPECT_FALSE(balloon_->statistics().has_value());
  const std::vector<Statistic> first = {{4, 1000}, {5, 2000}};
  const auto bytes = [](const std::vector<Statistic>& values) {
    return std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(Statistic));
  };
  QueueDriver& queue = harness_.queue(kStatistics);
  EXPECT_TRUE(balloon_->RequestStatistics().ok()) << "the driver's first buffer is on its way";
  harness_.loop().RunReady();
  const uint16_t head = queue.Chain().Readable(bytes(first)).Submit();
  harness_.Kick(kStatistics);
  EXPECT_FALSE(queue.HasUsed()) << "the device keeps the buffer until it wants news";
  ASSERT_TRUE(balloon_->statistics().has_value());
  EXPECT_EQ(balloon_->statistics()->values, (std::vector<BalloonStatistics::Value>{{4, 1000}, {5, 2000}}));
  EXPECT_GT(balloon_->statistics()->time, MonotonicTime::Now() - absl::Minutes(10));
  EXPECT_EQ(BalloonStatisticName(4), "free_memory");
  EXPECT_EQ(BalloonStatisticName(10), "");

  harness_.transport().Quiesce();
  ASSERT_TRUE(balloon_->RequestStatistics().ok());
  harness_.loop().RunReady();
  EXPECT_FALSE(queue.HasUsed()) << "quiesced";
  harness_.transport().Resume();
  harness_.loop().RunReady();
  EXPECT_EQ(queue.TakeUsed()->head, head);
  queue.Chain().Readable(bytes({{4, 900}})).Submit();
  harness_.Kick(kStatistics);
  EXPECT_EQ(balloon_->statistics()->values, (std::vector<BalloonStatistics::Value>{{4, 900}}));
  EXPECT_FALSE(queue.HasUsed());
}

TEST_F(BalloonTest, OfManyStatisticsBuffersTheLastCountsAndLongOnesAreCut) {
  QueueDriver& queue = harness_.queue(kStatistics);
  const uint16_t first = queue.Chain().Readable(std::vector<uint8_t>(5)).Submit();
  queue.Chain().Readable(std::vector<uint8_t>(100000)).Submit();
  harness_.Kick(kStatistics);
  EXPECT_EQ(queue.TakeUsed()->head, first);
  EXPECT_FALSE(queue.HasUsed());
  EXPECT_EQ(balloon_->statistics()->values.size(), 64u);
  queue.Chain().Writable(10).Submit();
  harness_.Kick(kStatistics);
  EXPECT_TRUE(harness_.driver().needs_reset());
}

TEST_F(BalloonTest, StoppedStatisticsQueueTakesItsBufferAlong) {
  harness_.queue(kStatistics).Chain().Readable(std::vector<uint8_t>(10)).Submit();
  harness_.Kick(kStatistics);
  harness_.driver().Write(kMmioQueueSelect, kStatistics);
  harness_.driver().Write(kMmioQueueReady, 0);
  QueueDriver queue(harness_.arena(), 8, /*event_index=*/true);
  ASSERT_TRUE(harness_.driver().SetUpQueue(kStatistics, queue.addresses()));
  ASSERT_TRUE(balloon_->RequestStatistics().ok());
  harness_.Kick(kStatistics);
  EXPECT_EQ(queue.used_index(), 0);
}

TEST_F(BalloonTest, NoStatisticsWithoutADriverThatHasThem) {
  harness_.driver().Reset();
  EXPECT_EQ(balloon_->RequestStatistics().code(), absl::StatusCode::kFailedPrecondition);
  harness_.Start(virtio::kFeatureVersion1 | kBalloonMustTellHost);
  EXPECT_EQ(balloon_->RequestStatistics().code(), absl::StatusCode::kFailedPrecondition);
}

// Free page reporting, §5.5.6.7.

TEST_F(BalloonTest, ReportedPagesGoBackToTheHostButNotIntoTheBalloon) {
  // By the specification the queue is 4; drivers that leave no gaps use 3, and 2 when there are no statistics.
  const std::vector<std::pair<uint64_t, uint16_t>> ways = {
      {kBalloonStatisticsQueue, 4}, {kBalloonStatisticsQueue, 3}, {0, 2}};
  for (const auto& [features, queue] : ways) {
    harness_.Start(virtio::kFeatureVersion1 | kBalloonPageReporting | features);
    Fill(kFree, 16);
    harness_.queue(queue)
        .Chain()
        .WritableAt(GuestAddress(kFree * kPageBytes), 4 * kPageBytes)
        .WritableAt(GuestAddress((kFree + 8) * kPageBytes + 100), 2 * kPageBytes)
        .Submit();
    harness_.Kick(queue);
    EXPECT_EQ(harness_.queue(queue).TakeUsed()->written, 0u);
    EXPECT_TRUE(IsZero(kFree + 3));
    EXPECT_FALSE(IsZero(kFree + 4));
    EXPECT_FALSE(IsZero(kFree + 8)) << "only a part of it was reported";
    EXPECT_TRUE(IsZero(kFree + 9));
    EXPECT_FALSE(IsZero(kFree + 10));
    EXPECT_TRUE(balloon_->InflatedRanges().empty());
  }
}

TEST_F(BalloonTest, ReportedPagesAreNeverReclaimedOnceAnswered) {
  Fill(kFree, 4);
  auto token = balloon_->inhibitor().Inhibit("move");
  harness_.queue(3).Chain().WritableAt(GuestAddress(kFree * kPageBytes), 4 * kPageBytes).Submit();
  harness_.Kick(3);
  EXPECT_TRUE(harness_.queue(3).HasUsed());
  token.Release();
  harness_.loop().RunReady();
  EXPECT_FALSE(IsZero(kFree)) << "the guest may use it again since the answer";
  harness_.queue(3).Chain().ReadableAt(GuestAddress(0), 16).Submit();
  harness_.Kick(3);
  EXPECT_TRUE(harness_.driver().needs_reset());
}

TEST_F(BalloonTest, QueueOfAFeatureThatWasNotNegotiatedNeedsAReset) {
  harness_.Start(virtio::kFeatureVersion1 | kBalloonMustTellHost);
  harness_.queue(kStatistics).Chain().Readable(std::vector<uint8_t>(10)).Submit();
  harness_.Kick(kStatistics);
  EXPECT_TRUE(harness_.driver().needs_reset());
}

// State, R7.

TEST_F(BalloonTest, AnotherBalloonGoesOnFromASavedState) {
  ASSERT_TRUE(balloon_->SetTarget(100 * kPageBytes).ok());
  Fill(kFree, 8);
  auto token = balloon_->inhibitor().Inhibit("move");
  ASSERT_TRUE(balloon_->SetTarget(50 * kPageBytes).ok());
  Send(kInflate, {kFree, kFree + 1, kFree + 5});
  harness_.driver().WriteConfig<uint32_t>(kActualOffset, 3);
  const Statistic statistic = {4, 1234};
  const uint16_t head = harness_.queue(kStatistics).Chain().ReadableObject(statistic).Submit();
  harness_.Kick(kStatistics);
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  harness_.transport().Quiesce();
  harness_.transport().Save(state);

  auto owned = std::make_unique<Balloon>(harness_.memory(), 0);
  Balloon* other = owned.get();
  auto transport =
      virtio::MmioTransport::Create(std::move(owned), harness_.memory(), harness_.interrupt(), harness_.loop());
  ASSERT_TRUE(transport.ok());
  auto arriving = other->inhibitor().Inhibit("move");
  ASSERT_TRUE((*transport)->CheckState(state).ok()) << (*transport)->CheckState(state);
  (*transport)->LoadState(state);
  (*transport)->Resume();
  harness_.loop().RunReady();
  MmioDriver driver(**transport);
  EXPECT_EQ(other->target(), 50 * kPageBytes);
  EXPECT_EQ(driver.ReadConfig<uint32_t>(kNumPagesOffset), 100u) << "what the driver was told before";
  EXPECT_EQ(other->actual(), 3 * kPageBytes);
  EXPECT_EQ(other->InflatedRanges(), (std::vector{RangeOf(kFree, 2), RangeOf(kFree + 5, 1)}));
  EXPECT_EQ(other->statistics()->values, (std::vector<BalloonStatistics::Value>{{4, 1234}}));
  EXPECT_FALSE(IsZero(kFree));
  arriving.Release();
  harness_.loop().RunReady();
  EXPECT_EQ(driver.ReadConfig<uint32_t>(kNumPagesOffset), 50u);
  EXPECT_TRUE(IsZero(kFree));
  EXPECT_FALSE(IsZero(kFree + 2));
  ASSERT_TRUE(other->RequestStatistics().ok());
  harness_.loop().RunReady();
  EXPECT_EQ(harness_.queue(kStatistics).TakeUsed()->head, head);
  (*transport)->Quiesce();
}

TEST_F(BalloonTest, EveryFieldOfTheStateIsChecked) {
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  harness_.transport().Quiesce();
  harness_.transport().Save(state);
  ASSERT_TRUE(harness_.transport().CheckState(state).ok());
  using Change = std::function<void(state::VirtioMmio::Builder, state::VirtioBalloon::Builder)>;
  const auto ranges = [](std::vector<std::pair<uint64_t, uint64_t>> values) {
    return [values](auto, state::VirtioBalloon::Builder balloon) {
      auto inflated = balloon.initInflated(values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        inflated[i].setFirst(values[i].first);
        inflated[i].setCount(values[i].second);
      }
    };
  };
  const std::vector<std::pair<std::string, Change>> changes = {
      {"target", [](auto, auto balloon) { balloon.setTargetPages(kPages + 1); }},
      {"wanted", [](auto, auto balloon) { balloon.setWantedPages(kPages + 1); }},
      {"actual", [](auto, auto balloon) { balloon.setActualPages(kPages + 1); }},
      {"empty range", ranges({{5, 0}})},
      {"range past the end", ranges({{kPages - 1, 2}})},
      {"range outside", ranges({{kPages, 1}})},
      {"count wraps", ranges({{5, UINT64_MAX}})},
      {"first wraps", ranges({{uint64_t{1} << 52, 1}})},
      {"not in order", ranges({{7, 1}, {5, 1}})},
      {"overlap", ranges({{5, 3}, {7, 1}})},
      {"statistics", [](auto, auto balloon) { balloon.initStatistics(65); }},
      {"buffer that is not in flight", [](auto, auto balloon) { balloon.setStatisticsBufferHeld(true); }},
      {"buffer past the table",
       [](auto mmio, auto balloon) {
         mmio.getQueues()[kStatistics].setNextAvailable(1);
         balloon.setStatisticsBufferHeld(true);
         balloon.setStatisticsHead(64);
       }},
      {"other device", [](auto mmio, auto) { mmio.setRng(); }},
  };
  for (const auto& [what, change] : changes) {
    capnp::MallocMessageBuilder changed;
    changed.setRoot(state.asReader());
    auto mmio = changed.getRoot<state::Device>().getVirtioMmio();
    change(mmio, mmio.getBalloon());
    EXPECT_FALSE(harness_.transport().CheckState(changed.getRoot<state::Device>()).ok()) << what;
  }
}

class HostileBalloonTest : public BalloonTest, public testing::WithParamInterface<HostileChain> {};

TEST_P(HostileBalloonTest, NeedsAResetOnEveryQueueAndWorksAfterIt) {
  for (uint16_t queue = 0; queue < 5; ++queue) {
    uint64_t features = harness_.driver().OfferedFeatures();
    harness_.Start(GetParam().indirect ? features : features & ~virtio::kFeatureIndirectDescriptors);
    GetParam().submit(harness_.queue(queue));
    harness_.Kick(queue);
    EXPECT_TRUE(harness_.driver().needs_reset()) << queue;
  }
  harness_.Start(harness_.driver().OfferedFeatures());
  Send(kInflate, {kFree});
  EXPECT_EQ(balloon_->InflatedRanges(), std::vector{RangeOf(kFree, 1)});
}

INSTANTIATE_TEST_SUITE_P(All, HostileBalloonTest, testing::ValuesIn(HostileChains()),
                         [](const auto& info) { return info.param.name; });

// More than one pass may take, and memory above the hole below 4 GiB.
class LargeBalloonTest : public BalloonTest {
 protected:
  LargeBalloonTest() : BalloonTest(uint64_t{5} << 30) {}
};

TEST_F(LargeBalloonTest, MuchPostponedWorkIsDoneInShares) {
  const uint32_t first = 700000;
  Fill(first + 40000, 1);
  auto token = balloon_->inhibitor().Inhibit("move");
  Send(kInflate, Run(first, 32768));
  Send(kInflate, Run(first + 32768, 32768));
  token.Release();
  harness_.loop().RunReady();
  EXPECT_TRUE(IsZero(first + 40000));
  EXPECT_EQ(balloon_->reclaimed(), 65536 * kPageBytes);
}

// A guest that fills the queue with long lists of scattered pages, which cost the kernel a call each.
TEST_F(LargeBalloonTest, NoPassTakesMoreThanItsShareHoweverManyListsThereAre) {
  constexpr uint64_t kMostPages = 1024;
  constexpr uint16_t kLists = 4;
  for (const uint64_t features : {virtio::kFeatureVersion1, virtio::kFeatureVersion1 | kBalloonMustTellHost}) {
    harness_.Start(features);
    for (uint32_t list = 0; list < kLists; ++list) {
      Frames frames;
      for (uint32_t i = 0; i < 8192; ++i) {
        frames.push_back(700000 + list * 16384 + 2 * i);
      }
      harness_.queue(kInflate)
          .Chain()
          .Readable({reinterpret_cast<const uint8_t*>(frames.data()), frames.size() * sizeof(uint32_t)})
          .Submit();
    }
    uint64_t most = 0;
    const uint64_t start = balloon_->reclaimed();
    while (harness_.queue(kInflate).used_index() != kLists) {
      const uint64_t before = balloon_->reclaimed();
      absl::MutexLock lock(&balloon_->mutex());
      ASSERT_TRUE(balloon_->ProcessQueue(kInflate).ok());
      most = std::max(most, balloon_->reclaimed() - before);
      ASSERT_GT(balloon_->reclaimed(), before) << "a pass that does nothing";
    }
    EXPECT_LE(most, kMostPages * kPageBytes);
    EXPECT_EQ(balloon_->reclaimed() - start, kLists * 8192 * kPageBytes);
  }
}

// What a list costs is for its pages, and not for the size of the guest: a pass takes several, and knows none of them
// any more.
TEST_F(LargeBalloonTest, ListsOfADriverThatNeedNotTellAreForgottenOneByOne) {
  constexpr uint32_t kLists = 8;
  harness_.Start(virtio::kFeatureVersion1);
  const uint64_t start = balloon_->reclaimed();
  for (uint16_t pass = 1; pass <= 2; ++pass) {
    for (uint32_t list = 0; list < kLists; ++list) {
      // Each has the first of all pages that are used here, and others from end to end of the memory.
      const Frames frames = {1000, 400000 + 50000 * list, 400001 + 50000 * list};
      harness_.queue(kInflate)
          .Chain()
          .Readable({reinterpret_cast<const uint8_t*>(frames.data()), frames.size() * sizeof(uint32_t)})
          .Submit();
    }
    absl::MutexLock lock(&balloon_->mutex());
    ASSERT_TRUE(balloon_->ProcessQueue(kInflate).ok());
    EXPECT_EQ(harness_.queue(kInflate).used_index(), pass * kLists);
    EXPECT_EQ(balloon_->reclaimed() - start, pass * kLists * 3 * kPageBytes);
  }
}

TEST_F(LargeBalloonTest, NoPassTakesMoreThanItsShareOfReports) {
  constexpr uint64_t kMostBytes = uint64_t{64} << 20;
  constexpr uint32_t kReportBytes = 300 << 20;
  const GuestAddress address(uint64_t{700000} * kPageBytes);
  const uint16_t queue = 3;
  uint64_t most = 0;
  for (int i = 0; i < 2; ++i) {
    harness_.queue(queue).Chain().WritableAt(address, kReportBytes).WritableAt(address, kReportBytes).Submit();
  }
  while (harness_.queue(queue).used_index() != 2) {
    const uint64_t before = balloon_->reclaimed();
    absl::MutexLock lock(&balloon_->mutex());
    ASSERT_TRUE(balloon_->ProcessQueue(queue).ok());
    most = std::max(most, balloon_->reclaimed() - before);
    ASSERT_GT(balloon_->reclaimed(), before);
  }
  EXPECT_LE(most, kMostBytes);
  EXPECT_EQ(balloon_->reclaimed(), 4 * uint64_t{kReportBytes});
}

TEST_F(LargeBalloonTest, PagesAboveTheHoleAreInflatedAndThoseInItAreNot) {
  const uint32_t hole = kMmioHoleStart.value() / kPageBytes;
  const uint32_t high = kMmioHoleEnd.value() / kPageBytes;
  std::memset(harness_.memory().regions()[1]->guest_mapping().data(), 1, kPageBytes);
  Send(kInflate, {hole - 1, hole, high - 1, high});
  EXPECT_EQ(balloon_->InflatedRanges(), (std::vector{RangeOf(hole - 1, 1), RangeOf(high, 1)}));
  EXPECT_EQ(harness_.memory().regions()[1]->guest_mapping()[0], 0);
}

}  // namespace
}  // namespace ferrite
