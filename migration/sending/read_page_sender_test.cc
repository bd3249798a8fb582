// What becomes of pages that are read for the sender, as a disk's are.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "memory/guest_address.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/sending/page_sender.h"
#include "migration/sending/send_figures.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/wrapped_stream.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint64_t, 1> kPages = {2048};
using Frames = std::vector<PageHeader>;

class ReadPageSenderTest : public testing::Test {
 protected:
  // Of a disk each page looks like its number; some are zero.
  absl::Status Read(const PageRange& run, uint64_t pages_per_unit) {
    return sender_.SendRead(run, pages_per_unit, [this](uint64_t first, std::span<uint8_t> into) {
      read_pages_ += into.size() / kPageBytes;
      for (uint64_t page = 0; page < into.size() / kPageBytes; ++page) {
        std::memset(&into[page * kPageBytes], ByteOf(first + page), kPageBytes);
      }
      return absl::OkStatus();
    });
  }
  uint8_t ByteOf(uint64_t page) const {
    const bool is_zero = (page >= zero_.first && page < zero_.first + zero_.count) || (odd_are_zero_ && page % 2 == 1);
    return is_zero ? 0 : static_cast<uint8_t>(1 + page % 255);
  }
  void ExpectSent(Frames frames) {
    EXPECT_TRUE(sender_.SendRoundEnd(1).ok());
    frames.push_back(RoundFrame(1));
    EXPECT_EQ(taker_.AwaitRound(1), frames);
    for (const PageHeader& frame : frames) {
      for (uint64_t page = frame.first_page;
           frame.type == PageFrameType::kPages && page < frame.first_page + frame.count; ++page) {
        EXPECT_TRUE(kept_.Holds(0, page, ByteOf(page))) << page;
      }
    }
  }

  PageRange zero_;
  bool odd_are_zero_ = false;
  uint64_t read_pages_ = 0;
  PairEnds ends_ = MakePairEnds();
  KeptPages kept_{kPages};
  PageTaker taker_{std::move(ends_.feed), kept_};
  FakeClock clock_;
  SendFigures figures_;
  PageSender sender_{*ends_.sink, /*limiter=*/nullptr, /*rest=*/nullptr, clock_, figures_};
};

TEST_F(ReadPageSenderTest, UnitsAreReadOnceAndTheirZeroPagesAreTold) {
  zero_ = {.first = 4, .count = 6};
  EXPECT_TRUE(Read({.first = 0, .count = 12}, 4).ok());
  EXPECT_EQ(read_pages_, 12u);
  ExpectSent({PagesFrame(0, 0, 4), ZeroFrame(0, 4, 4), PagesFrame(0, 8, 4)});
}

TEST_F(ReadPageSenderTest, WhatIsLargerThanTheBufferComesInPieces) {
  EXPECT_TRUE(Read({.first = 600, .count = 600}, 1).ok());
  ExpectSent({PagesFrame(0, 600, kMaxDataPages), PagesFrame(0, 600 + kMaxDataPages, 600 - kMaxDataPages)});
}

// What is scattered over a disk leaves together, as it was when it was read.
TEST_F(ReadPageSenderTest, PagesGatherUntilTheyAreFlushedOrTheBufferIsFull) {
  for (const uint64_t page : {3, 7, 5}) {
    EXPECT_TRUE(Read({.first = page, .count = 1}, 1).ok());
  }
  EXPECT_GE(sender_.put_bytes(), 3 * kPageBytes);
  EXPECT_EQ(sender_.sent_bytes(), 0u);
  // These do not find room beside them.
  EXPECT_TRUE(Read({.first = 512, .count = kMaxDataPages - 2}, 1).ok());
  EXPECT_GE(sender_.sent_bytes(), 3 * kPageBytes);
  for (uint64_t page = 1100; page < 1500; ++page) {
    EXPECT_TRUE(Read({.first = page, .count = 1}, 1).ok());
  }
  Frames frames = {PagesFrame(0, 3, 1), PagesFrame(0, 7, 1), PagesFrame(0, 5, 1),
                   PagesFrame(0, 512, kMaxDataPages - 2)};
  for (uint64_t page = 1100; page < 1500; ++page) {
    frames.push_back(PagesFrame(0, page, 1));
  }
  ExpectSent(frames);
  EXPECT_EQ(sender_.put_bytes(), sender_.sent_bytes());
}

// One that becomes so many frames that some leave while it is sent: the others are not written over by the next one.
TEST_F(ReadPageSenderTest, RestOfAPieceIsAsItWasRead) {
  odd_are_zero_ = true;
  Frames frames;
  for (const uint64_t first : {0, 1000}) {
    EXPECT_TRUE(Read({.first = first, .count = 300}, 1).ok());
    for (uint64_t page = first; page < first + 300; page += 2) {
      frames.push_back(PagesFrame(0, page, 1));
      frames.push_back(ZeroFrame(0, page + 1, 1));
    }
  }
  ExpectSent(frames);
}

TEST_F(ReadPageSenderTest, WhatCannotBeReadIsTheError) {
  const absl::Status bad = absl::DataLossError("bad block");
  EXPECT_EQ(sender_.SendRead({.first = 0, .count = 1}, 1, [&](uint64_t, std::span<uint8_t>) { return bad; }), bad);
}

// Of a unit that comes in pieces nobody knows whether all of it is zero: it goes whole, as data.
TEST_F(ReadPageSenderTest, UnitThatIsReadInPiecesIsData) {
  zero_ = {.first = 0, .count = 1024};
  EXPECT_TRUE(Read({.first = 0, .count = 1024}, 1024).ok());
  ExpectSent({PagesFrame(0, 0, kMaxDataPages), PagesFrame(0, kMaxDataPages, kMaxDataPages)});
}

// How long the other end may be at what is written there.
TEST(PagePatienceTest, IsThatOfTheStream) {
  class Noted final : public WrappedStream {
   public:
    Noted(std::unique_ptr<Stream> stream, absl::Duration& noted) : WrappedStream(std::move(stream)), noted_(noted) {}
    void SetPatience(absl::Duration patience) override { noted_ = patience; }

   private:
    absl::Duration& noted_;
  };
  auto ends = MakeStreamPair();
  ASSERT_TRUE(ends.ok());
  absl::Duration noted;
  StreamPageSink sink(std::make_unique<Noted>(std::move(ends->first), noted));
  sink.SetPatience(absl::Seconds(60));
  EXPECT_EQ(noted, absl::Seconds(60));
}

}  // namespace
}  // namespace ferrite::migration
