// The destination's end of channels within the process, for tests of who sends.
#ifndef FERRITE_TESTS_FAKES_PAGE_TAKER_H_
#define FERRITE_TESTS_FAKES_PAGE_TAKER_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "memory/guest_address.h"
#include "memory/page_range.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/page_sink.h"
#include "migration/channel/pair/pair_pages.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

struct PairEnds {
  std::unique_ptr<PairPageSink> sink;
  std::unique_ptr<PairPageFeed> feed;
};
inline PairEnds MakePairEnds() {
  const std::shared_ptr<FramePipe> frames = *FramePipe::Create(RealClock());
  const std::shared_ptr<RequestPipe> requests = *RequestPipe::Create(RealClock());
  return {.sink = std::make_unique<PairPageSink>(frames, requests, "the destination"),
          .feed = std::make_unique<PairPageFeed>(frames, requests, "the source")};
}

inline PageHeader PagesFrame(uint16_t region, uint64_t first, uint64_t count) {
  return {.type = PageFrameType::kPages, .region = region, .first_page = first, .count = static_cast<uint32_t>(count)};
}
inline PageHeader ZeroFrame(uint16_t region, uint64_t first, uint64_t count) {
  return {.type = PageFrameType::kZero, .region = region, .first_page = first, .count = static_cast<uint32_t>(count)};
}
inline PageHeader RoundFrame(uint32_t number) { return {.type = PageFrameType::kRound, .count = number}; }

// Keeps the bytes that come. Threads: any, for pages that do not overlap.
class KeptPages final : public PageHandler {
 public:
  // `pages`: of each region.
  explicit KeptPages(std::span<const uint64_t> pages) {
    for (const uint64_t count : pages) {
      regions_.emplace_back(count * kPageBytes);
    }
  }

  absl::Status Begin(const PageHeader&) override { return absl::OkStatus(); }
  absl::StatusOr<Target> NextTarget(const PageRange& rest) override {
    if (rest.region >= regions_.size() || (rest.first + rest.count) * kPageBytes > regions_[rest.region].size()) {
      return absl::InvalidArgumentError("pages of no region");
    }
    return Target{.pages = rest.count,
                  .bytes = std::span(regions_[rest.region]).subspan(rest.first * kPageBytes, rest.count * kPageBytes)};
  }
  absl::Status Wrong(const PageRange& page) override { return absl::DataLossError(absl::StrCat("page ", page.first)); }
  absl::Status Gone(const PageRange&) override { return absl::OkStatus(); }
  absl::Status Filled(const PageRange&) override { return absl::OkStatus(); }
  absl::StatusOr<uint64_t> Zero(const PageRange& rest) override { return rest.count; }
  absl::StatusOr<uint64_t> Lost(const PageRange& rest) override { return rest.count; }

  // Whether the last that came of the page is `byte` all over.
  bool Holds(uint16_t region, uint64_t page, uint8_t byte) const {
    const auto bytes = std::span(regions_[region]).subspan(page * kPageBytes, kPageBytes);
    return std::all_of(bytes.begin(), bytes.end(), [byte](uint8_t b) { return b == byte; });
  }

 private:
  std::vector<std::vector<uint8_t>> regions_;
};

// A thread that takes what comes over a channel. Threads: the test's.
class PageTaker {
 public:
  // `kept` outlives it.
  PageTaker(std::unique_ptr<PairPageFeed> feed, KeptPages& kept)
      : feed_(std::move(feed)), kept_(kept), thread_(StartOrDie("test-taker", [this] { Take(); })) {}
  ~PageTaker() { feed_->Shutdown(); }

  // The frames so far that were not asked for before, up to the end of round `number`, which comes soon.
  std::vector<PageHeader> AwaitRound(uint32_t number) {
    const TimedMutexLock lock(&mutex_);
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return Find(number) != frames_.end(); };
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&came), kSoon)) << "round " << number << " did not end";
    const auto end = frames_.begin() + (Find(number) - frames_.begin()) + (came() ? 1 : 0);
    std::vector<PageHeader> round(frames_.begin(), end);
    frames_.erase(frames_.begin(), end);
    return round;
  }
  bool HasRound(uint32_t number) const {
    const TimedMutexLock lock(&mutex_);
    return Find(number) != frames_.end();
  }
  // The first one of them, which comes soon.
  PageHeader AwaitFrame() {
    const TimedMutexLock lock(&mutex_);
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !frames_.empty(); };
    if (!mutex_.AwaitFor(absl::Condition(&came), kSoon)) {
      ADD_FAILURE() << "no frame came";
      return {};
    }
    const PageHeader first = frames_.front();
    frames_.erase(frames_.begin());
    return first;
  }
  bool HasFrame() const {
    const TimedMutexLock lock(&mutex_);
    return !frames_.empty();
  }
  // All that was not asked for before, when the source has closed the channel, which it does soon.
  std::vector<PageHeader> AwaitEnd() {
    const TimedMutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&ended_), kSoon)) << "the channel was not closed";
    return std::exchange(frames_, {});
  }

 private:
  static constexpr absl::Duration kSoon = absl::Seconds(30);

  void Take() {
    while (true) {
      const absl::StatusOr<PageHeader> header = feed_->Next(kept_);
      const TimedMutexLock lock(&mutex_);
      if (!header.ok()) {
        ended_ = true;
        return;
      }
      frames_.push_back(*header);
    }
  }
  std::vector<PageHeader>::const_iterator Find(uint32_t round) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::find(frames_.begin(), frames_.end(), RoundFrame(round));
  }

  const std::unique_ptr<PairPageFeed> feed_;
  KeptPages& kept_;
  mutable TimedMutex mutex_;
  std::vector<PageHeader> frames_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

// Page channels within the process, for a PageSource, and who takes what comes over them.
struct TakenChannels {
  std::vector<std::unique_ptr<PageSink>> sinks;
  std::vector<std::unique_ptr<PageTaker>> takers;
};
// `kept` outlives the takers.
inline TakenChannels MakeTakenChannels(size_t count, KeptPages& kept) {
  TakenChannels channels;
  for (size_t i = 0; i < count; ++i) {
    PairEnds ends = MakePairEnds();
    channels.sinks.push_back(std::move(ends.sink));
    channels.takers.push_back(std::make_unique<PageTaker>(std::move(ends.feed), kept));
  }
  return channels;
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_PAGE_TAKER_H_
