// What the two ends of a page channel do with a queue pair beside it.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "migration/channel/rdma/rdma_rig.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// What each end has registered for itself, per channel: for messages, and what is read to.
constexpr uint64_t kOwnThere = kPageBytes;
constexpr uint64_t kOwnHere = kPageBytes + Puller::kMostBytes + Puller::kMostEarly * Puller::kMostEarlyBytes;

TEST_F(RdmaPagesTest, PagesGoBehindTheirHeadersUntilTheirKeyIsHere) {
  Fill(Pages(0, 40));
  fabric_.Hold(Held::kRegistrations);
  RoundOf(Pages(0, 40));
  EXPECT_TRUE(HasCome(Pages(0, 40)));
  EXPECT_EQ(written_, std::vector<PageRange>{});
  EXPECT_EQ(there_figures_->inline_bytes, 40 * kPageBytes);
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kRegistrations, 1));
  fabric_.LetGo(Held::kRegistrations);
  AwaitKey(0);
  Fill(Pages(0, 40));
  RoundOf(Pages(0, 40));
  EXPECT_EQ(written_, std::vector<PageRange>{Pages(0, 40)});
  EXPECT_TRUE(HasCome(Pages(0, 40)));
}

// A run over two chunks, of which one has a key.
TEST_F(RdmaPagesTest, EachPieceGoesAsItCan) {
  AwaitKey(1);
  const PageRange run = Pages(kChunkPages - 8, 16);
  Fill(run);
  fabric_.Hold(Held::kRegistrations);
  RoundOf(run);
  fabric_.LetGo(Held::kRegistrations);
  EXPECT_EQ(written_, std::vector<PageRange>{Pages(kChunkPages, 8)});
  EXPECT_TRUE(HasCome(run));
}

TEST_F(RdmaPagesTest, MuchMoreThanGathersIsWritten) {
  for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    AwaitKey(chunk);
  }
  Fill(Pages(0, kChunks * kChunkPages));
  fabric_.Reorder(7);
  Round([&] {
    for (uint64_t page = 0; page < kChunks * kChunkPages; ++page) {
      ASSERT_EQ(Put(Pages(page, 1)), absl::OkStatus()) << page;
    }
  });
  EXPECT_EQ(written_.size(), kChunks * kChunkPages);
  EXPECT_TRUE(HasCome(Pages(0, kChunks * kChunkPages)));
}

// R1: that a WRITE has completed is no proof of its arrival.
TEST_F(RdmaPagesTest, WrittenFrameWaitsForItsBarrier) {
  patience_ = absl::Milliseconds(200);
  OpenChannel();
  AwaitKey(0);
  Fill(Pages(0, 4));
  fabric_.Hold(Held::kWork);
  ASSERT_EQ(Put(Pages(0, 4)), absl::OkStatus());
  Thread flusher = StartOrDie("test-flush", [this] { EXPECT_FALSE(sink_->Flush().ok()); });
  // The WRITE and the SEND.
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 2));
  EXPECT_TRUE(absl::IsUnavailable(feed_->Next(*this).status()));
  EXPECT_EQ(written_, std::vector<PageRange>{});
  flusher.Join();
}

// What is written in the next round over another queue pair never comes before it.
TEST_F(RdmaPagesTest, RoundEndsWhenTheDestinationHasWhatWasWritten) {
  AwaitKey(0);
  sink_->SetPatience(absl::Milliseconds(200));
  Fill(Pages(0, 4));
  ASSERT_EQ(Put(Pages(0, 4)), absl::OkStatus());
  ASSERT_EQ(sink_->EndRound(77), absl::OkStatus());
  // Nobody reads there.
  EXPECT_TRUE(absl::IsUnavailable(sink_->Flush()));
}

// R1: what waits in a connection would overwrite what is written in the next round past it.
TEST_F(RdmaPagesTest, RoundEndsWhenTheDestinationHasWhatWentBehindHeaders) {
  for (const bool zero : {false, true}) {
    OpenChannel();
    sink_->SetPatience(absl::Milliseconds(200));
    ASSERT_EQ(zero ? sink_->Zero(Pages(0, 4)) : Put(Pages(0, 4)), absl::OkStatus());
    ASSERT_EQ(sink_->EndRound(77), absl::OkStatus());
    // Nobody reads there.
    EXPECT_TRUE(absl::IsUnavailable(sink_->Flush()));
  }
}

TEST_F(RdmaPagesTest, RoundWithoutMemoryWaitsForNobody) {
  const std::vector<uint8_t> of_a_disk(kPageBytes, 7);
  ASSERT_EQ(sink_->Pages({.region = 3, .first = 0, .count = 1}, of_a_disk), absl::OkStatus());
  ASSERT_EQ(sink_->EndRound(77), absl::OkStatus());
  EXPECT_EQ(sink_->Flush(), absl::OkStatus());
}

TEST_F(RdmaPagesTest, MemoryThatCannotBeRegisteredThereGoesBehindHeaders) {
  fabric_.LimitRegistered(End::kHere, kOwnHere + kLeastRdmaChunk);
  AwaitKey(0);
  const MonotonicTime until = Soon();
  do {
    ASSERT_LT(RealClock().Now(), until);
    Fill(Pages(kChunkPages, 20));
    RoundOf(Pages(kChunkPages, 20));
    EXPECT_TRUE(HasCome(Pages(kChunkPages, 20)));
  } while (here_figures_->refused_chunks == 0);
  AwaitKey(0);
  RoundOf(Pages(kChunkPages, 20));
  EXPECT_EQ(written_, std::vector<PageRange>{});
  EXPECT_EQ(here_figures_->refused_chunks, 1u);
  EXPECT_EQ(here_figures_->registered_chunks, 1u);
  EXPECT_EQ(here_figures_->registered_bytes, kLeastRdmaChunk);
  EXPECT_EQ(there_figures_->registered_chunks, 1u) << "what has no key is not registered at the source";
}

TEST_F(RdmaPagesTest, MemoryThatCannotBeRegisteredHereGoesBehindHeaders) {
  fabric_.LimitRegistered(End::kThere, kOwnThere + kLeastRdmaChunk);
  AwaitKey(0);
  const MonotonicTime until = Soon();
  while (there_figures_->refused_chunks == 0) {
    ASSERT_LT(RealClock().Now(), until);
    Fill(Pages(kChunkPages, 20));
    RoundOf(Pages(kChunkPages, 20));
    EXPECT_TRUE(HasCome(Pages(kChunkPages, 20)));
  }
  EXPECT_TRUE(written_.empty());
}

// They are holes, and stay so.
TEST_F(RdmaPagesTest, ChunksWithoutDataAreRegisteredAtNeitherEnd) {
  AwaitKey(2);
  Round([&] { EXPECT_EQ(sink_->Zero(Pages(0, 2 * kChunkPages)), absl::OkStatus()); });
  EXPECT_EQ(fabric_.registered_bytes(End::kHere), kLeastRdmaChunk + kOwnHere);
  EXPECT_EQ(fabric_.registered_bytes(End::kThere), kLeastRdmaChunk + kOwnThere);
  EXPECT_TRUE(place_->MayHaveWritten(0, 2 * kChunkPages));
  EXPECT_FALSE(place_->MayHaveWritten(0, 2 * kChunkPages - 1));
  EXPECT_FALSE(place_->MayHaveWritten(0, 3 * kChunkPages));
}

TEST_F(RdmaPagesTest, NextChunkIsAskedForAheadWhereItHasData) {
  Fill(Pages(kChunkPages + 5, 3));
  AwaitKey(0);
  const MonotonicTime until = Soon();
  while (here_figures_->registered_chunks < 2) {
    ASSERT_LT(RealClock().Now(), until) << "it was not asked for";
    sched_yield();
  }
  EXPECT_EQ(fabric_.registered_bytes(End::kThere), kLeastRdmaChunk + kOwnThere) << "there is nothing to go yet";
}

TEST_F(RdmaPagesTest, AllIsRegisteredWhereThatIsWanted) {
  Open({.pin = RdmaPin::kAll, .chunk_bytes = kLeastRdmaChunk});
  const MonotonicTime until = Soon();
  while (here_figures_->registered_chunks < kChunks) {
    ASSERT_LT(RealClock().Now(), until);
    sched_yield();
  }
  AwaitKey(3);
}

// R1, whatever the source does: not what is under way, nor what is posted from then on.
TEST_F(RdmaPagesTest, NothingIsWrittenBehindTheEnd) {
  AwaitKey(0);
  EXPECT_TRUE(place_->may_write());
  fabric_.Hold(Held::kWork);
  Fill(Pages(0, 4));
  const std::vector<uint8_t> before(At(destination_, Pages(0, 4)).begin(), At(destination_, Pages(0, 4)).end());
  ASSERT_EQ(Put(Pages(0, 4)), absl::OkStatus());
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 1));
  place_->End();
  EXPECT_FALSE(place_->may_write());
  EXPECT_EQ(fabric_.registered_bytes(End::kHere), kOwnHere);
  fabric_.LetGo(Held::kWork);
  EXPECT_FALSE(sink_->Flush().ok());
  EXPECT_TRUE(std::ranges::equal(before, At(destination_, Pages(0, 4))));
  EXPECT_GE(fabric_.counts().late + fabric_.counts().refused, 1u);
}

TEST_F(RdmaPagesTest, EndWaitsForWhatIsBeingRegistered) {
  fabric_.Hold(Held::kRegistrations);
  Fill(Pages(0, 4));
  RoundOf(Pages(0, 4));
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kRegistrations, 1));
  Thread end = StartOrDie("test-end", [this] { place_->End(); });
  fabric_.LetGo(Held::kRegistrations);
  end.Join();
  EXPECT_EQ(fabric_.registered_bytes(End::kHere), kOwnHere);
}

TEST_F(RdmaPagesTest, BehindTheRoundsPagesGoBehindTheirHeaders) {
  AwaitKey(0);
  ASSERT_EQ(sink_->EndRounds(), absl::OkStatus());
  ASSERT_EQ(sink_->EndRounds(), absl::OkStatus());
  Fill(Pages(0, 8));
  RoundOf(Pages(0, 8));
  EXPECT_TRUE(HasCome(Pages(0, 8)));
  EXPECT_EQ(written_, std::vector<PageRange>{});
  EXPECT_FALSE(place_->may_write());
  // And words of placed frames are heard.
  feed_->PreferLatency();
  sink_->PreferLatency();
  Thread receiver = StartOrDie("test-receive", [this] {
    EXPECT_TRUE(feed_->Next(*this).ok());
    EXPECT_TRUE(feed_->Next(*this).ok());
  });
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Put(Pages(0, 8)), absl::OkStatus());
    EXPECT_EQ(sink_->Flush(), absl::OkStatus());
    EXPECT_EQ(sink_->AwaitPlaced(1), absl::OkStatus());
  }
}

// A channel of a recovery: nothing of the rounds is said over it, and each frame is answered by a word.
TEST_F(RdmaPagesTest, ChannelThatIsLiveFromTheStartAsksForNoKey) {
  feed_->PreferLatency();
  sink_->PreferLatency();
  Fill(Pages(0, 8));
  Thread receiver = StartOrDie("test-receive", [this] { EXPECT_TRUE(feed_->Next(*this).ok()); });
  EXPECT_EQ(Put(Pages(0, 8)), absl::OkStatus());
  EXPECT_EQ(Put(Pages(8, 8)), absl::OkStatus());
  EXPECT_EQ(sink_->Flush(), absl::OkStatus());
  EXPECT_EQ(sink_->AwaitPlaced(1), absl::OkStatus()) << "one is on its way at most";
  receiver.Join();
  EXPECT_EQ(here_figures_->registered_chunks, 0u);
}

// Over another channel, which asks anew: of a machine whose rounds are over it gets no key.
TEST_F(RdmaPagesTest, ChannelOfAnEndedMachineGetsNoKey) {
  place_->End();
  OpenChannel();
  for (int i = 0; i < 5; ++i) {
    Fill(Pages(0, 4));
    RoundOf(Pages(0, 4));
    EXPECT_TRUE(HasCome(Pages(0, 4)));
  }
  EXPECT_EQ(there_figures_->written_bytes, 0u);
  EXPECT_EQ(there_figures_->registered_chunks, 0u);
}

TEST_F(RdmaPagesTest, BrokenQueuePairIsALostChannel) {
  AwaitKey(0);
  fabric_.Hold(Held::kWork);
  ASSERT_EQ(Put(Pages(0, 4)), absl::OkStatus());
  Thread receiver = StartOrDie("test-receive", [this] {
    const auto header = feed_->Next(*this);
    EXPECT_TRUE(absl::IsUnavailable(header.status())) << header.status();
  });
  Thread flusher = StartOrDie("test-flush", [this] {
    const absl::Status status = sink_->Flush();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  });
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 2));
  fabric_.Cut(0);
}

TEST_F(RdmaPagesTest, ShutdownOfEitherEndEndsItsWait) {
  AwaitKey(0);
  fabric_.Hold(Held::kWork);
  ASSERT_EQ(Put(Pages(0, 4)), absl::OkStatus());
  Thread receiver = StartOrDie("test-receive", [this] { EXPECT_FALSE(feed_->Next(*this).ok()); });
  Thread flusher = StartOrDie("test-flush", [this] { EXPECT_FALSE(sink_->Flush().ok()); });
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 2));
  feed_->Shutdown();
  receiver.Join();
  sink_->Shutdown();
}

TEST_F(RdmaPagesTest, LossOfTheStreamEndsTheWaitForWork) {
  AwaitKey(0);
  fabric_.Hold(Held::kWork);
  ASSERT_EQ(Put(Pages(0, 4)), absl::OkStatus());
  Thread flusher = StartOrDie("test-flush", [this] { EXPECT_TRUE(absl::IsUnavailable(sink_->Flush())); });
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 2));
  feed_.reset();
}

}  // namespace
}  // namespace ferrite::migration
