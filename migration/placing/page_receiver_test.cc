// Where the bytes of a page go on their way from the connection to the guest (docs/architecture.md): each read's target
// is recorded.
#include "migration/placing/page_receiver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/placing/memory_landing.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/wrapped_stream.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = 8 << 20;

// A stream that notes where each byte of it was read to.
class RecordedStream final : public WrappedStream {
 public:
  struct Piece {
    const uint8_t* at;
    size_t bytes;
  };

  using WrappedStream::WrappedStream;

  absl::Status ReadAll(std::span<uint8_t> out) override {
    pieces_.push_back({out.data(), out.size()});
    return WrappedStream::ReadAll(out);
  }
  bool shut_down() const override { return cut_; }

  // As after a Shutdown() that came when the last read was done.
  void Cut() { cut_ = true; }
  // How many bytes were read to their own places in `memory`: those of `run`, in order, each once.
  uint64_t BytesInPlace(std::span<const uint8_t> memory, PageRun run) const {
    uint64_t bytes = 0;
    for (const Piece& piece : pieces_) {
      if (piece.at == memory.data() + run.first * kPageBytes + bytes) {
        bytes += piece.bytes;
      }
    }
    return bytes;
  }
  uint64_t BytesElsewhere(std::span<const uint8_t> memory) const {
    uint64_t bytes = 0;
    for (const Piece& piece : pieces_) {
      if (piece.at < memory.data() || piece.at >= memory.data() + memory.size()) {
        bytes += piece.bytes;
      }
    }
    return bytes;
  }

 private:
  std::vector<Piece> pieces_;
  bool cut_ = false;
};

class PageReceiverTest : public testing::Test {
 protected:
  void Make(MemoryBacking backing, bool thp = false) {
    auto memory = GuestMemory::Create(kBytes, backing);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    ASSERT_EQ(memory_->regions()[0]->SetThp(thp), absl::OkStatus());
    landing_ = std::make_unique<MemoryLanding>(*memory_, RealClock());
    IncomingPart* const parts[] = {landing_.get()};
    placement_ = std::make_unique<Placement>(parts);
    auto ends = MakeStreamPair();
    ASSERT_TRUE(ends.ok());
    source_ = std::move(ends->first);
    auto recorded = std::make_unique<RecordedStream>(std::move(ends->second));
    stream_ = recorded.get();
    feed_ = std::make_unique<StreamPageFeed>(std::move(recorded));
    receiver_ = std::make_unique<PageReceiver>(*feed_, *placement_, figures_, Showing::kGathered);
  }

  void Arm() {
    ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
    ASSERT_EQ(landing_->placer(0).Arm(landing_->userfault()), absl::OkStatus());
  }

  static std::vector<uint8_t> Content(PageRun run) {
    std::vector<uint8_t> bytes(run.count * kPageBytes);
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<uint8_t>(run.first + i / kPageBytes + i * 7 + 1);
    }
    return bytes;
  }

  // One frame goes to the receiver, which handles it.
  void Receive(PageRun run, bool live) {
    const auto received = ReceiveSpoilt(run, live, std::nullopt);
    EXPECT_TRUE(received.ok()) << received.status();
  }
  // A bit of the page `spoilt` of the run is changed on its way.
  absl::StatusOr<PageHeader> ReceiveSpoilt(PageRun run, bool live, std::optional<uint64_t> spoilt) {
    const auto header = EncodePageHeader(
        {.type = PageFrameType::kPages, .first_page = run.first, .count = static_cast<uint32_t>(run.count)});
    std::vector<uint8_t> content = Content(run);
    std::vector<uint32_t> sums(run.count);
    SumPages(content, sums);
    if (spoilt.has_value()) {
      content[*spoilt * kPageBytes + 1234] ^= 0x10;
    }
    Thread sender = StartOrDie("sender", [&] {
      EXPECT_TRUE(source_->WriteAll(header).ok());
      EXPECT_TRUE(source_->WriteAll(std::span(reinterpret_cast<const uint8_t*>(sums.data()), 4 * sums.size())).ok());
      EXPECT_TRUE(source_->WriteAll(std::span<const uint8_t>(content)).ok());
    });
    auto received = receiver_->ReceiveOne(live);
    sender.Join();
    return received;
  }

  // The guest's view. Everything is there: a fault that nobody handles would block the test.
  void ExpectContent(PageRun run) {
    const std::vector<uint8_t> content = Content(run);
    EXPECT_EQ(std::memcmp(memory_->regions()[0]->guest_mapping().data() + run.first * kPageBytes, content.data(),
                          content.size()),
              0);
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<MemoryLanding> landing_;
  std::unique_ptr<Placement> placement_;
  ReceiveFigures figures_;
  std::unique_ptr<Stream> source_;
  std::unique_ptr<StreamPageFeed> feed_;
  RecordedStream* stream_ = nullptr;  // the feed's
  std::unique_ptr<PageReceiver> receiver_;
};

constexpr PageRun kRuns[] = {{0, 1}, {3, 300}, {400, 512}, {1024, 17}};
constexpr uint64_t kPages = 1 + 300 + 512 + 17;

// R1: a page of a round that came with other bytes than it was summed with is in doubt until it comes again.
TEST_F(PageReceiverTest, FlippedBitOfARoundIsRemembered) {
  Make(MemoryBacking::kAnonymous);
  EXPECT_TRUE(ReceiveSpoilt({10, 300}, /*live=*/false, 7).ok()) << "the guest may have written it";
  EXPECT_EQ(placement_->doubtful().Count(), 1u);
  Receive({100, 20}, /*live=*/false);
  EXPECT_EQ(placement_->doubtful().Count(), 1u);
  EXPECT_TRUE(ReceiveSpoilt({16, 2}, /*live=*/false, 0).ok());
  EXPECT_EQ(placement_->doubtful().Count(), 1u) << "another one, and the first came again";
  Receive({16, 2}, /*live=*/false);
  EXPECT_EQ(placement_->doubtful().Count(), 0u);
  ExpectContent({10, 300});
  EXPECT_TRUE(ReceiveSpoilt({20, 1}, /*live=*/false, 0).ok());
  placement_->doubtful().Settle({.region = 0, .first = 0, .count = 100});
  EXPECT_EQ(placement_->doubtful().Count(), 0u) << "out of date";
}

// Behind the switchover pages stand still: what came otherwise is not shown, and may come over another connection.
TEST_F(PageReceiverTest, FlippedBitBehindTheSwitchoverEndsTheConnection) {
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kAnonymous}) {
    Make(backing, /*thp=*/true);
    ASSERT_NO_FATAL_FAILURE(Arm());
    const auto received = ReceiveSpoilt({0, 4}, /*live=*/true, 2);
    EXPECT_EQ(received.status().code(), absl::StatusCode::kDataLoss) << received.status();
    receiver_.reset();
    EXPECT_FALSE(placement_->IsHere(0, 2));
    receiver_ = std::make_unique<PageReceiver>(*feed_, *placement_, figures_, Showing::kGathered);
    Receive({0, 4}, /*live=*/true);
    receiver_.reset();
    ExpectContent({0, 4});
  }
}

TEST_F(PageReceiverTest, RoundsAreReadIntoTheGuestsMemoryItself) {
  Make(MemoryBacking::kAnonymous);
  const auto guest = memory_->regions()[0]->guest_mapping();
  // The second time over what is there already.
  for (int round = 0; round < 2; ++round) {
    for (const PageRun& run : kRuns) {
      Receive(run, /*live=*/false);
      ExpectContent(run);
    }
  }
  for (const PageRun& run : kRuns) {
    EXPECT_EQ(stream_->BytesInPlace(guest, run), run.count * kPageBytes) << run.first;
  }
  EXPECT_EQ(stream_->BytesElsewhere(guest), 2 * std::size(kRuns) * kPageHeaderBytes + 2 * kPages * sizeof(uint32_t))
      << "only the headers and the sums";
  EXPECT_EQ(figures_.copied_pages, 0u);
  EXPECT_EQ(figures_.pages, 2 * kPages);
}

// The other way round: what is copied is copied once, and counted.
TEST_F(PageReceiverTest, WhatIsCopiedIsCopiedOnce) {
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kAnonymous}) {
    Make(backing);
    const auto guest = memory_->regions()[0]->guest_mapping();
    Receive({0, 100}, /*live=*/false);
    ExpectContent({0, 100});
    const uint64_t before = backing == MemoryBacking::kMemfd ? 100 : 0;
    EXPECT_EQ(figures_.copied_pages, before);
    ASSERT_NO_FATAL_FAILURE(Arm());
    Receive({200, 300}, /*live=*/true);
    ExpectContent({200, 300});
    EXPECT_EQ(figures_.copied_pages, before + 300);
    EXPECT_EQ(stream_->BytesElsewhere(guest),
              2 * kPageHeaderBytes + 400 * sizeof(uint32_t) + (before + 300) * kPageBytes);
    EXPECT_EQ(figures_.pages, 400u);
    receiver_.reset();
    figures_.copied_pages = 0;
    figures_.pages = 0;
  }
}

// Blocks that come whole are read to where they change hands from.
TEST_F(PageReceiverTest, WholeBlocksAreGatheredAndPartsOfThemShownWhenAnotherBlockComes) {
  Make(MemoryBacking::kAnonymous, /*thp=*/true);
  ASSERT_NO_FATAL_FAILURE(Arm());
  Receive({0, 512}, /*live=*/true);
  ExpectContent({0, 512});
  const uint64_t copied = figures_.copied_pages;
  EXPECT_EQ(copied, 512u) << "the first one, to compare with";
  Receive({512, 512}, /*live=*/true);
  ExpectContent({512, 512});
  Receive({1024, 100}, /*live=*/true);
  Receive({1536, 10}, /*live=*/true);
  ExpectContent({1024, 100});
  Receive({1900, 136}, /*live=*/true);
  receiver_.reset();
  ExpectContent({1536, 10});
  ExpectContent({1900, 136});
  if (landing_->userfault().features().move) {
    EXPECT_LE(figures_.copied_pages, copied + 100 + 10 + 136);
  }
}

// What comes twice is read, but to nowhere near the guest (R1).
TEST_F(PageReceiverTest, DuplicatesNeverTouchTheMapping) {
  Make(MemoryBacking::kMemfd);
  ASSERT_NO_FATAL_FAILURE(Arm());
  Receive({10, 5}, /*live=*/true);
  memory_->regions()[0]->guest_mapping()[12 * kPageBytes] ^= 0xff;
  Receive({10, 5}, /*live=*/true);
  memory_->regions()[0]->guest_mapping()[12 * kPageBytes] ^= 0xff;
  ExpectContent({10, 5});
  EXPECT_EQ(figures_.duplicate_pages, 5u);
  EXPECT_EQ(figures_.copied_pages, 5u);
}

TEST_F(PageReceiverTest, ZeroesTakeThePlaceOfWhatCame) {
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kAnonymous}) {
    Make(backing);
    const PageRun all{0, kBytes / kPageBytes};
    for (const PageRun& run : kRuns) {
      Receive(run, /*live=*/false);
    }
    ASSERT_TRUE(landing_->placer(0).FillZero(all).ok());
    const auto guest = memory_->regions()[0]->guest_mapping();
    EXPECT_EQ(*memory_->regions()[0]->ResidentBytes(), 0u);
    EXPECT_EQ(static_cast<size_t>(std::count(guest.begin(), guest.end(), 0)), guest.size());
    EXPECT_EQ(placement_->missing(), 0u);
  }
}

// What costs no bytes can be all of the memory: whoever ends the connection waits for a piece of that only.
TEST_F(PageReceiverTest, FramesWithoutBytesEndWithTheConnection) {
  for (const bool live : {false, true}) {
    Make(MemoryBacking::kMemfd);
    if (live) {
      ASSERT_NO_FATAL_FAILURE(Arm());
    }
    ASSERT_TRUE(
        source_
            ->WriteAll(EncodePageHeader({.type = PageFrameType::kZero, .first_page = 0, .count = kBytes / kPageBytes}))
            .ok());
    stream_->Cut();
    EXPECT_TRUE(absl::IsUnavailable(receiver_->ReceiveOne(live).status()));
    EXPECT_EQ(placement_->missing(), kBytes / kPageBytes);
    receiver_.reset();
  }
}

}  // namespace
}  // namespace ferrite::migration
