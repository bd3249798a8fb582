// What leaves of memory of which the hardware lost a page (R9): read back at the other end of the stream.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/thread.h"
#include "memory/guest_memory.h"
#include "memory/page_range.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/protocol/lost_filler.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "migration/sending/page_sender.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/lost_page.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = 8 << 20;
constexpr uint64_t kHugePages = 512;  // of 4 KiB, in one of 2 MiB

class LostPageSenderTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = PageLoser::Supported(); !status.ok()) {
      GTEST_SKIP() << status;
    }
    auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    auto ends = MakeStreamPair();
    ASSERT_TRUE(ends.ok()) << ends.status();
    sink_ = std::make_unique<StreamPageSink>(std::move(ends->first));
    peer_ = std::move(ends->second);
    Use({.may_go = true, .found = [this](const uint8_t* address) {
           found_.push_back(static_cast<uint64_t>(address - Page(0)) / kPageBytes);
           return PageRange{.first = found_.back(), .count = 1};
         }});
  }
  void Use(Losses losses) {
    sender_.reset();
    sender_ = std::make_unique<PageSender>(*sink_, /*limiter=*/nullptr, /*rest=*/nullptr, clock_, figures_,
                                           std::move(losses));
  }
  uint8_t* Page(uint64_t page) { return memory_->regions()[0]->guest_mapping().data() + page * kPageBytes; }
  std::span<const uint8_t> Region() { return memory_->regions()[0]->guest_mapping(); }
  void Fill(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) {
      std::memset(Page(page), static_cast<int>(1 + page % 255), kPageBytes);
    }
  }
  void Lose(uint64_t page) { ASSERT_EQ(loser_.Lose(*memory_->regions()[0], page * kPageBytes), absl::OkStatus()); }

  // The next frame; its bytes are passed over.
  void ExpectFrame(PageFrameType type, uint64_t first, uint32_t count) {
    std::array<uint8_t, kPageHeaderBytes> bytes;
    ASSERT_TRUE(peer_->ReadAll(bytes).ok());
    const auto header = DecodePageHeader(bytes);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(*header, (PageHeader{.type = type, .first_page = first, .count = count}));
    std::vector<uint8_t> rest(header->following_bytes());
    EXPECT_TRUE(peer_->ReadAll(rest).ok());
  }
  bool Quiet() { return !peer_->AwaitReadable(clock_, absl::ZeroDuration()); }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<StreamPageSink> sink_;
  std::unique_ptr<Stream> peer_;
  FakeClock clock_;
  SendFigures figures_;
  std::unique_ptr<PageSender> sender_;
  PageLoser loser_;
  std::vector<uint64_t> found_;
};

TEST_F(LostPageSenderTest, RunEndsInFrontOfALostPage) {
  Fill(0, 10);
  ASSERT_NO_FATAL_FAILURE(Lose(4));
  const auto sent = sender_->SendRun({.first = 0, .count = 10}, Region(), 1);
  ASSERT_TRUE(sent.ok()) << sent.status();
  EXPECT_EQ(*sent, 4u);
  EXPECT_EQ(found_, std::vector<uint64_t>{4});
  ASSERT_EQ(sender_->SendLost({.first = 4, .count = 1}, {.first = 4, .count = 1}), absl::OkStatus());
  ASSERT_EQ(sender_->Flush(), absl::OkStatus());
  ExpectFrame(PageFrameType::kPages, 0, 4);
  ExpectFrame(PageFrameType::kPoison, 4, 1);
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(figures_.lost.Get(), (std::vector<PageRange>{{.first = 4, .count = 1}}));
}

// Whether a unit is zero is known from its first page: it is its sum that meets the lost one.
TEST_F(LostPageSenderTest, UnitWithALostPageDoesNotGo) {
  Fill(0, 3 * kHugePages);
  ASSERT_NO_FATAL_FAILURE(Lose(kHugePages + 300));
  Thread sending = StartOrDie("sending", [&] {
    const auto sent = sender_->SendRun({.first = 0, .count = 3 * kHugePages}, Region(), kHugePages);
    EXPECT_EQ(sent.value_or(0), kHugePages) << sent.status();
    EXPECT_EQ(sender_->Flush(), absl::OkStatus());
  });
  ExpectFrame(PageFrameType::kPages, 0, kHugePages);
  sending.Join();
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(found_, std::vector<uint64_t>{kHugePages + 300});
}

// The frame was begun: what was promised comes, cannot be taken for the page, and is said to be lost.
TEST_F(LostPageSenderTest, PageThatIsLostOnItsWayOutIsFilledUp) {
  Fill(0, 10);
  ASSERT_EQ(sender_->SendRun({.first = 0, .count = 10}, Region(), 1).value_or(0), 10u);
  ASSERT_NO_FATAL_FAILURE(Lose(6));
  ASSERT_NO_FATAL_FAILURE(Lose(7));
  ASSERT_EQ(sender_->Flush(), absl::OkStatus());
  std::array<uint8_t, kPageHeaderBytes> header;
  ASSERT_TRUE(peer_->ReadAll(header).ok());
  std::array<uint32_t, 10> sums;
  ASSERT_TRUE(peer_->ReadAll({reinterpret_cast<uint8_t*>(sums.data()), sizeof(sums)}).ok());
  for (uint64_t page = 0; page < 10; ++page) {
    std::vector<uint8_t> bytes(kPageBytes);
    ASSERT_TRUE(peer_->ReadAll(bytes).ok());
    uint32_t sum = 0;
    SumPages(bytes, {&sum, 1});
    const bool lost = page == 6 || page == 7;
    EXPECT_EQ(IsLostFiller(bytes), lost) << page;
    EXPECT_EQ(sum == sums[page], !lost) << page;
  }
  ExpectFrame(PageFrameType::kPoison, 6, 1);
  ExpectFrame(PageFrameType::kPoison, 7, 1);
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(found_, (std::vector<uint64_t>{6, 7}));
}

TEST_F(LostPageSenderTest, OtherSideThatKnowsNoLostPagesIsSentNone) {
  Use({.may_go = false, .found = [](const uint8_t*) { return PageRange{.first = 1, .count = 1}; }});
  EXPECT_TRUE(absl::IsFailedPrecondition(sender_->SendLost({.first = 4, .count = 1}, {.first = 4, .count = 1})));
  Fill(0, 2);
  ASSERT_EQ(sender_->SendRun({.first = 0, .count = 2}, Region(), 1).value_or(0), 2u);
  ASSERT_NO_FATAL_FAILURE(Lose(1));
  EXPECT_TRUE(absl::IsFailedPrecondition(sender_->Flush()));
}

// R1: what the host has no page for just now is not said to be lost; the frame stays incomplete.
TEST_F(LostPageSenderTest, PageThatIsNotLostEndsTheConnection) {
  Use({.may_go = true, .found = [](const uint8_t*) { return absl::UnavailableError("it is not lost"); }});
  Fill(0, 10);
  ASSERT_EQ(sender_->SendRun({.first = 0, .count = 10}, Region(), 1).value_or(0), 10u);
  ASSERT_NO_FATAL_FAILURE(Lose(6));
  EXPECT_TRUE(absl::IsResourceExhausted(sender_->Flush()));
  std::vector<uint8_t> came(kPageHeaderBytes + 10 * (sizeof(uint32_t) + kPageBytes));
  sender_.reset();
  sink_.reset();
  EXPECT_FALSE(peer_->ReadAll(came).ok());
}

TEST_F(LostPageSenderTest, RoundEndsBehindWhatWasFoundInIt) {
  Fill(0, 3);
  ASSERT_EQ(sender_->SendRun({.first = 0, .count = 3}, Region(), 1).value_or(0), 3u);
  ASSERT_NO_FATAL_FAILURE(Lose(1));
  ASSERT_EQ(sender_->SendRoundEnd(4), absl::OkStatus());
  ExpectFrame(PageFrameType::kPages, 0, 3);
  ExpectFrame(PageFrameType::kPoison, 1, 1);
  ExpectFrame(PageFrameType::kRound, 0, 4);
}

}  // namespace
}  // namespace ferrite::migration
