// Both ends of a page channel with a queue pair beside it, within one process.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_RIG_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_RIG_H_

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/thread.h"
#include "memory/guest_address.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/rdma/rdma_feed.h"
#include "migration/channel/rdma/rdma_place.h"
#include "migration/channel/rdma/rdma_reach.h"
#include "migration/channel/rdma/rdma_sink.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

// One region of four chunks, at both ends.
class RdmaPagesTest : public testing::Test, protected PageHandler {
 protected:
  static constexpr uint64_t kChunkPages = kLeastRdmaChunk / kPageBytes;
  static constexpr uint64_t kChunks = 4;
  static constexpr uint64_t kBytes = kChunks * kLeastRdmaChunk;
  using End = RdmaFabric::End;
  using Held = RdmaFabric::Held;

  void SetUp() override { Open(); }
  // A machine that comes, and the first channel of it.
  void Open(RdmaOptions options = {.chunk_bytes = kLeastRdmaChunk}) {
    options_ = options;
    here_ = *fabric_.Open("", End::kHere, Soon(), never_);
    there_ = *fabric_.Open("", End::kThere, Soon(), never_);
    listener_ = *here_->Listen();
    place_ = *RdmaPlace::Create({destination_.span()}, options, here_figures_, AnyHost());
    place_->Begin(here_);
    reach_ = std::make_shared<RdmaReach>(std::vector{source_.span()}, options, there_, there_figures_, RealClock());
    OpenChannel();
  }
  // Another one, in place of that.
  void OpenChannel() {
    auto streams = *MakeStreamPair();
    streams.first->SetPatience(patience_);
    streams.second->SetPatience(patience_);
    RdmaPageSink::Pairs pairs;
    Thread connects = StartOrDie("test-connect", [&] {
      pairs.push = *there_->Connect(listener_->port(), "w", {}, Soon(), never_);
      pairs.pull = *there_->Connect(listener_->port(), "r", {.remote_read = true}, Soon(), never_);
    });
    auto push = listener_->Accept("w", {.remote_write = true}, Soon(), never_);
    auto pull = listener_->Accept("r", {}, Soon(), never_);
    ASSERT_TRUE(push.ok() && pull.ok()) << push.status() << pull.status();
    connects.Join();
    raw_ = streams.first.get();
    sink_ = nullptr;
    feed_ = nullptr;
    std::unique_ptr<Stream> stream = std::move(streams.second);
    auto feed = RdmaPageFeed::Create(stream, *std::move(push), *std::move(pull), here_, place_, patience_, RealClock());
    ASSERT_TRUE(feed.ok()) << feed.status();
    feed_ = *std::move(feed);
    auto sink = RdmaPageSink::Create(std::move(streams.first), std::move(pairs), reach_, patience_, RealClock());
    ASSERT_TRUE(sink.ok()) << sink.status();
    sink_ = *std::move(sink);
  }
  static MonotonicTime Soon() { return RealClock().Now() + absl::Seconds(20); }

  // Gives pages of the source something to say, which is another thing each time.
  void Fill(const PageRange& run) {
    ++fills_;
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      std::memset(source_.data() + page * kPageBytes, static_cast<int>(page * 7 + fills_) | 1, kPageBytes);
    }
  }
  static PageRange Pages(uint64_t first, uint64_t count) { return {.region = 0, .first = first, .count = count}; }
  std::span<uint8_t> At(const Mapping& memory, const PageRange& run) const {
    return memory.span().subspan(run.first * kPageBytes, run.count * kPageBytes);
  }
  bool HasCome(const PageRange& run) const { return std::ranges::equal(At(source_, run), At(destination_, run)); }
  absl::Status Put(const PageRange& run) { return sink_->Pages(run, At(source_, run)); }

  // What `send` puts in, and the end of a round, come.
  void Round(const std::function<void()>& send) {
    const uint32_t number = ++round_;
    Thread receiver = StartOrDie("test-receive", [&] {
      while (true) {
        const auto header = feed_->Next(*this);
        ASSERT_TRUE(header.ok()) << header.status();
        if (header->type == PageFrameType::kRound) {
          EXPECT_EQ(*header, (PageHeader{.type = PageFrameType::kRound, .count = number}));
          return;
        }
      }
    });
    send();
    EXPECT_EQ(sink_->EndRound(number), absl::OkStatus());
    EXPECT_EQ(sink_->Flush(), absl::OkStatus());
    receiver.Join();
  }
  void RoundOf(const PageRange& run) {
    Round([&] { EXPECT_EQ(Put(run), absl::OkStatus()); });
  }
  // Rounds of one page of a chunk each, until one is written: its key is here.
  void AwaitKey(uint64_t chunk) {
    const PageRange page = Pages(chunk * kChunkPages, 1);
    Fill(page);
    const MonotonicTime until = Soon();
    for (const size_t before = written_.size(); written_.size() == before;) {
      ASSERT_LT(RealClock().Now(), until) << "no key came";
      RoundOf(page);
    }
    written_.clear();
  }

  absl::Status Begin(const PageHeader&) override { return absl::OkStatus(); }
  absl::StatusOr<Target> NextTarget(const PageRange& rest) override {
    const uint64_t pages = std::min<uint64_t>(rest.count, 64);
    return Target{.pages = pages, .bytes = At(destination_, Pages(rest.first, pages))};
  }
  absl::Status Wrong(const PageRange&) override { return absl::OkStatus(); }
  absl::Status Gone(const PageRange&) override { return absl::OkStatus(); }
  absl::Status Filled(const PageRange& run) override {
    filled_.push_back(run);
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Written(const PageRange& rest) override {
    written_.push_back(rest);
    return rest.count;
  }
  absl::StatusOr<uint64_t> Zero(const PageRange& rest) override { return rest.count; }
  absl::StatusOr<uint64_t> Lost(const PageRange& rest) override { return rest.count; }

  absl::Duration patience_ = absl::Seconds(20);
  RdmaOptions options_;
  const EventFd never_ = *EventFd::Create();
  RdmaFabric fabric_;
  Mapping source_ = *Mapping::Create("the source's memory", kBytes, MAP_PRIVATE | MAP_ANONYMOUS);
  Mapping destination_ = *Mapping::Create("the destination's memory", kBytes, MAP_PRIVATE | MAP_ANONYMOUS);
  std::shared_ptr<RdmaFigures> here_figures_ = std::make_shared<RdmaFigures>();
  std::shared_ptr<RdmaFigures> there_figures_ = std::make_shared<RdmaFigures>();
  std::shared_ptr<VerbsDomain> here_, there_;
  std::unique_ptr<QueuePairListener> listener_;
  std::shared_ptr<RdmaPlace> place_;
  std::shared_ptr<RdmaReach> reach_;
  SocketStream* raw_ = nullptr;  // the source's
  std::unique_ptr<RdmaPageFeed> feed_;
  std::unique_ptr<RdmaPageSink> sink_;
  std::vector<PageRange> filled_, written_;
  uint64_t fills_ = 0;
  uint32_t round_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_RIG_H_
