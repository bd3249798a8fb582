// Page and urgent channels within one process: a page is copied once, from where it is to where it goes.
#ifndef FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_PAGES_H_
#define FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/page_sink.h"
#include "migration/channel/pair/pair_pipe.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

struct PairFrame {
  PageHeader header;
  const uint8_t* data = nullptr;  // in the source's memory
  // Asked of a page of it that cannot be read (PageSink::Finder), while the source waits until all is read.
  PageSink::Finder find;
};
using FramePipe = PairPipe<PairFrame>;
using RequestPipe = PairPipe<PageRange>;

class PairPageSink : public UrgentSink {
 public:
  PairPageSink(std::shared_ptr<FramePipe> frames, std::shared_ptr<RequestPipe> requests, std::string peer);
  ~PairPageSink() override;

  absl::Status Flush() override;
  uint64_t gathered_bytes() const override { return gathered_; }
  bool full() const override { return frames_.size() == kMostFrames || gathered_ >= kMostBytes; }
  // Flush() returns when all was placed.
  void PreferLatency() override {}
  absl::Status AwaitPlaced(uint64_t) override { return absl::OkStatus(); }
  void Shutdown() override;
  const std::string& peer() const override { return peer_; }
  absl::StatusOr<PageRange> NextRequest() override;
  bool HasRequest() override { return requests_->Await(absl::ZeroDuration()); }

 private:
  static constexpr size_t kMostFrames = 128;
  static constexpr uint64_t kMostBytes = 1 << 20;

  absl::Status Add(const PageHeader& header, std::span<const uint8_t> bytes) override;

  const std::shared_ptr<FramePipe> out_;
  const std::shared_ptr<RequestPipe> requests_;
  const std::string peer_;
  std::vector<PairFrame> frames_;
  uint64_t gathered_ = 0;
};

class PairPageFeed final : public UrgentFeed {
 public:
  PairPageFeed(std::shared_ptr<FramePipe> frames, std::shared_ptr<RequestPipe> requests, std::string peer);
  ~PairPageFeed() override;

  absl::StatusOr<PageHeader> Next(PageHandler& handler) override;
  absl::Status Join(WaitSet& set, uint32_t tag) override { return set.Add(in_->news().fd(), tag); }
  void PreferLatency() override {}
  void Shutdown() override;
  const std::string& peer() const override { return peer_; }
  absl::Status Ask(std::span<const PageRange> runs) override;

 private:
  absl::Status Handle(PageHandler& handler, const PairFrame& frame);
  // Copies the pages of `run`, which begin at `data`, and tells of those that cannot be read.
  static absl::Status Copy(PageHandler& handler, const PageRange& run, const uint8_t* data, std::span<uint8_t> into,
                           const PageSink::Finder& find);

  const std::shared_ptr<FramePipe> in_;
  const std::shared_ptr<RequestPipe> requests_;
  const std::string peer_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_PAGES_H_
