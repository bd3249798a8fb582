// What every kind of channel does with pages and requests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/thread.h"
#include "memory/guest_address.h"
#include "memory/guest_memory.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/wait_set.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/channel_kinds.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// Keeps what comes, as a destination would.
class Landing final : public PageHandler {
 public:
  absl::Status Begin(const PageHeader& header) override {
    begun.push_back(header);
    return refuses;
  }
  absl::StatusOr<Target> NextTarget(const PageRange& rest) override {
    // In pieces of two pages, of which every other is not needed.
    const uint64_t pages = std::min<uint64_t>(rest.count, 2);
    ++pieces;
    if (drops && pieces % 2 == 0) {
      return Target{.pages = pages, .bytes = {}};
    }
    return Target{.pages = pages, .bytes = std::span(memory).subspan(rest.first * kPageBytes, pages * kPageBytes)};
  }
  absl::Status Wrong(const PageRange& page) override { return absl::DataLossError(absl::StrCat("page ", page.first)); }
  absl::Status Gone(const PageRange& page) override {
    gone.push_back(page);
    return absl::OkStatus();
  }
  absl::Status Filled(const PageRange& run) override {
    filled.push_back(run);
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Zero(const PageRange& rest) override {
    zero.push_back(rest);
    return std::min<uint64_t>(rest.count, 5);
  }
  absl::StatusOr<uint64_t> Lost(const PageRange& rest) override {
    lost.push_back(rest);
    return rest.count;
  }

  std::vector<uint8_t> memory = std::vector<uint8_t>(64 * kPageBytes);
  std::vector<PageHeader> begun;
  std::vector<PageRange> filled, zero, lost, gone;
  absl::Status refuses;
  bool drops = false;
  int pieces = 0;
};

class PageKindsTest : public ChannelKindsTest {
 protected:
  // Flush() may wait until all is taken.
  Thread FlushAside() {
    return StartOrDie("test-flush", [this] { flushed_ = sink_->Flush(); });
  }
  static std::vector<uint8_t> Pattern(uint64_t pages) {
    std::vector<uint8_t> bytes(pages * kPageBytes);
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<uint8_t>(i / kPageBytes * 3 + i * 7 + 1);
    }
    return bytes;
  }

  absl::Status flushed_;
  Landing landing_;
};

// What was said before the end is still heard; then there is nothing more, and nothing more can be said.
TEST_P(PageKindsTest, PagesGoToWhereTheHandlerSays) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  const std::vector<uint8_t> bytes = Pattern(7);
  ASSERT_TRUE(sink_->Pages({.region = 0, .first = 10, .count = 7}, bytes).ok());
  ASSERT_TRUE(sink_->Zero({.region = 1, .first = 0, .count = 12}).ok());
  ASSERT_TRUE(sink_->Lost({.region = 1, .first = 40, .count = 2}).ok());
  ASSERT_TRUE(sink_->EndRound(6).ok());
  EXPECT_GE(sink_->gathered_bytes(), 4 * kPageHeaderBytes + bytes.size());
  Thread flusher = FlushAside();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(feed_->Next(landing_).ok());
  }
  EXPECT_EQ(*feed_->Next(landing_), (PageHeader{.type = PageFrameType::kRound, .count = 6}));
  flusher.Join();
  EXPECT_TRUE(flushed_.ok()) << flushed_;
  EXPECT_EQ(sink_->gathered_bytes(), 0u);
  EXPECT_EQ(landing_.begun.size(), 4u);
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), landing_.memory.begin() + 10 * kPageBytes));
  EXPECT_EQ(landing_.filled, (std::vector<PageRange>{{0, 10, 2}, {0, 12, 2}, {0, 14, 2}, {0, 16, 1}}));
  EXPECT_EQ(landing_.zero, (std::vector<PageRange>{{1, 0, 12}, {1, 5, 7}, {1, 10, 2}})) << "piece by piece";
  EXPECT_EQ(landing_.lost, (std::vector<PageRange>{{1, 40, 2}}));
}

TEST_P(PageKindsTest, WhatNobodyNeedsIsPassedOver) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  landing_.drops = true;
  const std::vector<uint8_t> bytes = Pattern(6);
  ASSERT_TRUE(sink_->Pages({.region = 0, .first = 0, .count = 6}, bytes).ok());
  Thread flusher = FlushAside();
  EXPECT_TRUE(feed_->Next(landing_).ok());
  flusher.Join();
  const auto is_there = [&](uint64_t page) {
    return std::equal(bytes.begin() + page * kPageBytes, bytes.begin() + (page + 1) * kPageBytes,
                      landing_.memory.begin() + page * kPageBytes);
  };
  EXPECT_TRUE(is_there(0) && is_there(1) && is_there(4) && is_there(5));
  EXPECT_FALSE(is_there(2) || is_there(3));
}

TEST_P(PageKindsTest, RefusedFrameEndsWithTheReason) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  landing_.refuses = absl::InvalidArgumentError("not here");
  const std::vector<uint8_t> bytes = Pattern(2);
  ASSERT_TRUE(sink_->Pages({.region = 0, .first = 0, .count = 2}, bytes).ok());
  Thread flusher = FlushAside();
  EXPECT_EQ(feed_->Next(landing_).status(), absl::InvalidArgumentError("not here"));
  EXPECT_TRUE(landing_.filled.empty());
  feed_->Shutdown();
  flusher.Join();
}

TEST_P(PageKindsTest, ManyMoreFramesThanGatherGoAllTheSame) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  constexpr uint64_t kFrames = 1000;
  Thread sender = StartOrDie("test-send", [&] {
    for (uint64_t i = 0; i < kFrames; ++i) {
      EXPECT_TRUE(sink_->Zero({.region = 0, .first = i, .count = 1}).ok());
    }
    EXPECT_TRUE(sink_->Flush().ok());
  });
  for (uint64_t i = 0; i < kFrames; ++i) {
    const auto header = feed_->Next(landing_);
    ASSERT_TRUE(header.ok()) << header.status();
    ASSERT_EQ(header->first_page, i);
  }
}

TEST_P(PageKindsTest, RequestsComeToTheSourceUntilTheDestinationCloses) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  const PageRange asked[] = {{.region = 2, .first = 5, .count = 1}, {.region = 0, .first = 512, .count = 512}};
  ASSERT_TRUE(feed_->Ask(asked).ok());
  EXPECT_EQ(*sink_->NextRequest(), asked[0]);
  EXPECT_EQ(*sink_->NextRequest(), asked[1]);
  feed_.reset();
  EXPECT_TRUE(absl::IsOutOfRange(sink_->NextRequest().status()));
}

TEST_P(PageKindsTest, SourceCanTellWhetherSomethingIsAskedFor) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  EXPECT_FALSE(sink_->HasRequest());
  std::vector<PageRange> asked;
  for (uint64_t page = 0; page < 150; ++page) {
    asked.push_back({.region = 3, .first = page, .count = 1});
  }
  ASSERT_TRUE(feed_->Ask(asked).ok());
  EXPECT_EQ(*sink_->NextRequest(), asked[0]);
  for (const PageRange& run : std::span(asked).subspan(1)) {
    EXPECT_TRUE(sink_->HasRequest());
    EXPECT_EQ(*sink_->NextRequest(), run);
  }
  EXPECT_FALSE(sink_->HasRequest());
  ASSERT_TRUE(feed_->Ask(std::span(asked).first(1)).ok());
  feed_.reset();
  EXPECT_EQ(*sink_->NextRequest(), asked[0]);
  EXPECT_TRUE(absl::IsOutOfRange(sink_->NextRequest().status()));
  // The end is nothing to wait for either.
  EXPECT_TRUE(sink_->HasRequest());
  EXPECT_TRUE(absl::IsOutOfRange(sink_->NextRequest().status()));
}

TEST_P(PageKindsTest, EndOfEitherSideEndsTheOther) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  sink_.reset();
  EXPECT_TRUE(absl::IsOutOfRange(feed_->Next(landing_).status()));
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  feed_->Shutdown();
  absl::Status status;
  const std::vector<uint8_t> bytes = Pattern(1);
  for (int i = 0; i < 10'000 && status.ok(); ++i) {
    status = sink_->Pages({.region = 0, .first = 0, .count = 1}, bytes);
    status.Update(sink_->Flush());
  }
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST_P(PageKindsTest, ShutdownEndsWaits) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  Thread reader = StartOrDie("test-read", [&] { EXPECT_FALSE(feed_->Next(landing_).ok()); });
  Thread server = StartOrDie("test-serve", [&] { EXPECT_FALSE(sink_->NextRequest().ok()); });
  feed_->Shutdown();
  sink_->Shutdown();
}

// R9: what was promised comes, and the page does not.
TEST_P(PageKindsTest, PageThatIsLostOnItsWayOutIsGone) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  const std::vector<uint8_t> bytes = Pattern(8);
  auto memory = GuestMemory::Create(bytes.size(), MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE((*memory)->Write(GuestAddress(0), bytes).ok());
  MemoryRegion& region = *(*memory)->regions()[0];
  std::vector<const uint8_t*> lost;
  sink_->SetFinder([&lost](const uint8_t* address) {
    lost.push_back(address);
    return absl::OkStatus();
  });
  ASSERT_TRUE(sink_->Pages({.region = 0, .first = 20, .count = 8}, region.guest_mapping()).ok());
  ASSERT_TRUE(region.HideLost(5 * kPageBytes).ok());
  Thread flusher = FlushAside();
  const auto header = feed_->Next(landing_);
  EXPECT_TRUE(header.ok()) << header.status();
  flusher.Join();
  EXPECT_TRUE(flushed_.ok()) << flushed_;
  EXPECT_EQ(landing_.gone, (std::vector<PageRange>{{0, 25, 1}}));
  EXPECT_EQ(landing_.filled, (std::vector<PageRange>{{0, 20, 2}, {0, 22, 2}, {0, 24, 2}, {0, 26, 2}}));
  for (const uint64_t page : {0, 4, 6, 7}) {
    EXPECT_TRUE(std::equal(bytes.begin() + page * kPageBytes, bytes.begin() + (page + 1) * kPageBytes,
                           landing_.memory.begin() + (20 + page) * kPageBytes))
        << page;
  }
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(static_cast<uint64_t>(lost[0] - region.guest_mapping().data()) / kPageBytes, 5u);
}

// R1: nor does filler, or nothing, come for what the host has no page for just now.
TEST_P(PageKindsTest, PageThatCannotBeReadAndIsNotLostEndsTheChannel) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  auto memory = GuestMemory::Create(8 * kPageBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok()) << memory.status();
  MemoryRegion& region = *(*memory)->regions()[0];
  ASSERT_TRUE(sink_->Pages({.region = 0, .first = 20, .count = 8}, region.guest_mapping()).ok());
  ASSERT_TRUE(region.HideLost(5 * kPageBytes).ok());
  sink_->SetFinder([](const uint8_t*) { return absl::UnavailableError("it is not lost"); });
  Thread flusher = StartOrDie("test-flush", [this] {
    flushed_ = sink_->Flush();
    if (!flushed_.ok()) {
      sink_->Shutdown();
    }
  });
  EXPECT_FALSE(feed_->Next(landing_).ok());
  feed_->Shutdown();
  flusher.Join();
  EXPECT_TRUE(landing_.gone.empty());
}

// A fault thread waits for its channel and for other things at once.
TEST_P(PageKindsTest, ChannelWakesWhoWaitsForSeveralThings) {
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  WaitSet set = *WaitSet::Create();
  const EventFd other = *EventFd::Create();
  ASSERT_TRUE(set.Add(other.fd(), 1).ok());
  ASSERT_TRUE(feed_->Join(set, 2).ok());
  other.Signal();
  EXPECT_EQ(*set.Wait(), 1u) << "it has nothing";
  ASSERT_TRUE(other.Drain());
  Thread sender = StartOrDie("test-send", [&] {
    EXPECT_TRUE(sink_->Zero({.region = 0, .first = 0, .count = 1}).ok());
    EXPECT_TRUE(sink_->Flush().ok());
  });
  EXPECT_EQ(*set.Wait(), 2u);
  EXPECT_TRUE(feed_->Next(landing_).ok());
  sender.Join();
  other.Signal();
  EXPECT_EQ(*set.Wait(), 1u) << "it was taken";
  sink_.reset();
  EXPECT_EQ(*set.Wait(), 3u) << "its end is something, too";
}

INSTANTIATE_TEST_SUITE_P(All, PageKindsTest, EveryKind(), KindName);

}  // namespace
}  // namespace ferrite::migration
