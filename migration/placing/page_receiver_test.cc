// Where the bytes of a page go on their way from the connection to the guest (docs/architecture.md): each read's target
// is recorded.
#include "migration/placing/page_receiver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
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
    const auto header = EncodePageHeader(
        {.type = PageFrameType::kPages, .first_page = run.first, .count = static_cast<uint32_t>(run.count)});
    const std::vector<uint8_t> content = Content(run);
    Thread sender = StartOrDie("sender", [&] {
      EXPECT_TRUE(source_->WriteAll(header).ok());
      EXPECT_TRUE(source_->WriteAll(std::span<const uint8_t>(content)).ok());
    });
    const auto received = receiver_->ReceiveOne(live);
    EXPECT_TRUE(received.ok()) << received.status();
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
  EXPECT_EQ(stream_->BytesElsewhere(guest), 2 * std::size(kRuns) * kPageHeaderBytes) << "only the headers";
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
    EXPECT_EQ(stream_->BytesElsewhere(guest), 2 * kPageHeaderBytes + (before + 300) * kPageBytes);
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

TEST_F(PageReceiverTest, MemoryIsTakenInPieces) {
  Make(MemoryBacking::kMemfd);
  const Placer& placer = placement_->placer(0);
  PageRun rest{100, 200'000};
  uint64_t next = rest.first;
  int pieces = 0;
  for (; rest.count > 0; ++pieces) {
    const PageRun piece = placer.TakePiece(rest);
    EXPECT_EQ(piece.first, next);
    next += piece.count;
    EXPECT_TRUE(next % 65536 == 0 || rest.count == 0) << next;
  }
  EXPECT_EQ(next, 200'100u);
  EXPECT_EQ(pieces, 4);
}

}  // namespace
}  // namespace ferrite::migration
