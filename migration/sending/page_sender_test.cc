// What leaves for a run of pages, and when: read back at the other end of the stream.
#include "migration/sending/page_sender.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/thread.h"
#include "memory/guest_memory.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = 8 << 20;
constexpr uint64_t kHugePages = 512;  // of 4 KiB, in one of 2 MiB

class PageSenderTest : public testing::Test {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    auto ends = MakeStreamPair();
    ASSERT_TRUE(ends.ok()) << ends.status();
    sink_ = std::make_unique<StreamPageSink>(std::move(ends->first));
    peer_ = std::move(ends->second);
    sender_ = std::make_unique<PageSender>(*sink_, /*limiter=*/nullptr, /*rest=*/nullptr, clock_, figures_);
  }

  void Fill(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) {
      std::memset(Page(page), static_cast<int>(1 + page % 255), kPageBytes);
    }
  }
  uint8_t* Page(uint64_t page) { return memory_->regions()[0]->guest_mapping().data() + page * kPageBytes; }

  std::span<const uint8_t> Region() { return memory_->regions()[0]->guest_mapping(); }

  // The next frame, whose bytes are those of its pages.
  PageHeader Hear() {
    std::array<uint8_t, kPageHeaderBytes> bytes;
    EXPECT_TRUE(peer_->ReadAll(bytes).ok());
    const auto header = DecodePageHeader(bytes);
    EXPECT_TRUE(header.ok()) << header.status();
    std::vector<uint8_t> sums(header->sum_bytes());
    EXPECT_TRUE(peer_->ReadAll(sums).ok());
    std::vector<uint8_t> data(header->data_bytes());
    EXPECT_TRUE(peer_->ReadAll(data).ok());
    if (!data.empty()) {
      EXPECT_EQ(std::memcmp(data.data(), Page(header->first_page), data.size()), 0) << header->first_page;
    }
    return *header;
  }
  void ExpectFrame(PageFrameType type, uint64_t first, uint32_t count) {
    const PageHeader header = Hear();
    EXPECT_EQ(header.type, type) << first;
    EXPECT_EQ(header.first_page, first);
    EXPECT_EQ(header.count, count) << first;
  }
  void SayPlaced(int frames) {
    for (int i = 0; i < frames; ++i) {
      const uint8_t word = kPlaced;
      EXPECT_TRUE(peer_->WriteAll({&word, 1}).ok());
    }
  }
  bool Quiet() { return !peer_->AwaitReadable(clock_, absl::ZeroDuration()); }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<StreamPageSink> sink_;
  std::unique_ptr<Stream> peer_;
  FakeClock clock_;
  static constexpr uint64_t kMostOnWay = 512 << 10;

  SendFigures figures_;
  std::unique_ptr<PageSender> sender_;
};

// R5: what somebody asks for does not wait behind more than half a MiB, in whatever buffers.
TEST_F(PageSenderTest, LittleIsOnItsWayWherePagesAreWaitedFor) {
  Fill(0, 256);
  sink_->PreferLatency();
  const auto send = [&](uint64_t first, uint64_t count) {
    ASSERT_EQ(sink_->AwaitPlaced(kMostOnWay), absl::OkStatus());
    ASSERT_EQ(sender_->SendRun({.region = 0, .first = first, .count = count}, Region(), 1).status(), absl::OkStatus());
    ASSERT_EQ(sender_->Flush(), absl::OkStatus());
  };
  for (uint64_t first = 0; first < 4 * 32; first += 32) {
    Thread reader = StartOrDie("reader", [&] { ExpectFrame(PageFrameType::kPages, first, 32); });
    ASSERT_NO_FATAL_FAILURE(send(first, 32)) << "there is room for it";
  }
  std::atomic<bool> goes_on = false;
  Thread waiting = StartOrDie("waits", [&] {
    EXPECT_EQ(sink_->AwaitPlaced(kMostOnWay), absl::OkStatus());
    goes_on = true;
  });
  EXPECT_FALSE(goes_on);
  SayPlaced(1);
  waiting.Join();
  EXPECT_TRUE(goes_on);
  Thread reader = StartOrDie("reader", [&] { ExpectFrame(PageFrameType::kPages, 128, 32); });
  ASSERT_NO_FATAL_FAILURE(send(128, 32));
  reader.Join();
  const uint8_t nonsense = 7;
  ASSERT_TRUE(peer_->WriteAll({&nonsense, 1}).ok());
  EXPECT_EQ(sink_->AwaitPlaced(kMostOnWay).code(), absl::StatusCode::kInvalidArgument);
}

// A huge page of 1 GiB is 512 frames, and nobody looks at how much is on its way between them.
TEST_F(PageSenderTest, WordsAreTakenWithinAUnit) {
  Fill(0, 1);
  sink_->PreferLatency();
  constexpr int kFrames = 600;
  Thread reader = StartOrDie("reader", [&] {
    for (int i = 0; i < kFrames; ++i) {
      ExpectFrame(PageFrameType::kPages, 0, 1);
      SayPlaced(1);
    }
  });
  for (int i = 0; i < kFrames; ++i) {
    ASSERT_EQ(sender_->SendRun({.region = 0, .first = 0, .count = 1}, Region(), 1).status(), absl::OkStatus());
  }
  ASSERT_EQ(sender_->Flush(), absl::OkStatus());
  reader.Join();
  EXPECT_EQ(figures_.bytes, kFrames * (kPageHeaderBytes + kPageBytes + sizeof(uint32_t)));
}

// The end of a round is no page, and whoever waits goes on when the channel is shut down.
TEST_F(PageSenderTest, WhoWaitsForPagesToBePlacedIsLetGo) {
  sink_->PreferLatency();
  for (int i = 0; i < 64; ++i) {
    ASSERT_EQ(sender_->SendRoundEnd(1), absl::OkStatus());
    ASSERT_EQ(sender_->SendZero({.region = 0, .first = 100, .count = 1}), absl::OkStatus());
  }
  Thread ends = StartOrDie("ends", [&] { sink_->Shutdown(); });
  EXPECT_FALSE(sink_->AwaitPlaced(kMostOnWay).ok());
}

// A destination that closes a channel says why on another one: that is waited for where the channel is unavailable.
TEST_F(PageSenderTest, EndOfTheConnectionIsNoEndOfTheWords) {
  sink_->PreferLatency();
  for (int i = 0; i < 64; ++i) {
    ASSERT_EQ(sender_->SendZero({.region = 0, .first = 100, .count = 1}), absl::OkStatus());
  }
  peer_->Shutdown();
  EXPECT_EQ(sink_->AwaitPlaced(kMostOnWay).code(), absl::StatusCode::kUnavailable);
}

// Two are on their way, whatever their size: one goes while the one before it is placed.
TEST_F(PageSenderTest, LargeUnitsGoOneWhileTheOtherIsPlaced) {
  Fill(0, kHugePages);
  sink_->PreferLatency();
  const auto send = [&] {
    Thread reader = StartOrDie("reader", [&] { ExpectFrame(PageFrameType::kPages, 0, kHugePages); });
    ASSERT_EQ(sink_->AwaitPlaced(kMostOnWay), absl::OkStatus());
    ASSERT_EQ(sender_->SendRun({.region = 0, .first = 0, .count = kHugePages}, Region(), kHugePages).status(),
              absl::OkStatus());
    ASSERT_EQ(sender_->Flush(), absl::OkStatus());
  };
  ASSERT_NO_FATAL_FAILURE(send());
  ASSERT_NO_FATAL_FAILURE(send());
  SayPlaced(1);
  ASSERT_NO_FATAL_FAILURE(send());
}

TEST_F(PageSenderTest, ZeroPagesAreRunsOfTheirOwn) {
  Fill(2, 3);
  Fill(7, 1);
  ASSERT_TRUE(sender_->SendRun({.first = 0, .count = 10}, Region(), 1).ok());
  EXPECT_TRUE(Quiet()) << "frames gather";
  ASSERT_TRUE(sender_->Flush().ok());
  ExpectFrame(PageFrameType::kZero, 0, 2);
  ExpectFrame(PageFrameType::kPages, 2, 3);
  ExpectFrame(PageFrameType::kZero, 5, 2);
  ExpectFrame(PageFrameType::kPages, 7, 1);
  ExpectFrame(PageFrameType::kZero, 8, 2);
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(figures_.data_pages, 4u);
  EXPECT_EQ(figures_.zero_pages, 6u);
  EXPECT_EQ(figures_.bytes, 5 * kPageHeaderBytes + 4 * (kPageBytes + sizeof(uint32_t)));
  EXPECT_EQ(sender_->sent_bytes(), figures_.bytes);
}

// A host page is placed whole: what is zero of one that is not goes as data.
TEST_F(PageSenderTest, UnitOfWhichOnePageIsNotZeroGoesWhole) {
  Fill(kHugePages + 300, 1);
  Thread sending = StartOrDie("sending", [&] {
    EXPECT_TRUE(sender_->SendRun({.first = 0, .count = 3 * kHugePages}, Region(), kHugePages).ok());
    EXPECT_TRUE(sender_->Flush().ok());
  });
  ExpectFrame(PageFrameType::kZero, 0, kHugePages);
  // In order, on this channel, in frames that are no longer than one may be.
  uint64_t next = kHugePages;
  while (next < 2 * kHugePages && !HasFailure()) {
    const PageHeader header = Hear();
    EXPECT_EQ(header.type, PageFrameType::kPages);
    EXPECT_EQ(header.first_page, next);
    EXPECT_GT(header.count, 0u);
    EXPECT_LE(header.count, kMaxDataPages);
    next += header.count;
  }
  EXPECT_EQ(next, 2 * kHugePages);
  ExpectFrame(PageFrameType::kZero, 2 * kHugePages, kHugePages);
  sending.Join();
  EXPECT_EQ(figures_.data_pages, kHugePages);
}

TEST_F(PageSenderTest, WhatIsKnownToBeZeroIsNotRead) {
  Fill(0, 2);
  ASSERT_TRUE(sender_->SendRun({.first = 0, .count = 1}, Region(), 1).ok());
  // Whatever it holds.
  ASSERT_TRUE(sender_->SendZero({.first = 1, .count = 1}).ok());
  ASSERT_TRUE(sender_->Flush().ok());
  ExpectFrame(PageFrameType::kPages, 0, 1);
  ExpectFrame(PageFrameType::kZero, 1, 1);
}

// The end of a round takes along what has gathered, in order.
TEST_F(PageSenderTest, EndOfARoundIsBehindAllOfIt) {
  Fill(5, 1);
  ASSERT_TRUE(sender_->SendRun({.first = 5, .count = 1}, Region(), 1).ok());
  ASSERT_TRUE(sender_->SendRoundEnd(7).ok());
  ExpectFrame(PageFrameType::kPages, 5, 1);
  const PageHeader end = Hear();
  EXPECT_EQ(end.type, PageFrameType::kRound);
  EXPECT_EQ(end.count, 7u);
}

TEST_F(PageSenderTest, BrokenStreamIsTheErrorOfWhoSends) {
  peer_->Shutdown();
  EXPECT_TRUE(absl::IsUnavailable(sender_->SendRoundEnd(1)));
}

}  // namespace
}  // namespace ferrite::migration
