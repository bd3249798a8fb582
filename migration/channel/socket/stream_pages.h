// Page and urgent channels over a byte stream (docs/wire_format.md, "Page frames"): pages go from where they are in the
// source's memory to where they are in the destination's, and are copied by nobody but the stream.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_PAGES_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_PAGES_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "memory/guest_address.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/page_sink.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// What is derived from it has bytes go past the stream, too.
class StreamPageSink : public UrgentSink {
 public:
  explicit StreamPageSink(std::unique_ptr<Stream> stream);

  absl::Status Flush() override;
  uint64_t gathered_bytes() const override { return gathered_; }
  bool full() const override {
    return frames_ == kMostFrames || gathered_ >= kMostBytes || on_way_.size() >= kMostOnWayFrames;
  }
  void PreferLatency() override { awaits_placed_ = true; }
  absl::Status AwaitPlaced(uint64_t bytes) override;
  absl::Duration QueueDelay() const override { return stream_->QueueDelay(); }
  void Shutdown() override { stream_->Shutdown(); }
  void SetPatience(absl::Duration patience) override { stream_->SetPatience(patience); }
  const std::string& peer() const override { return stream_->peer(); }
  absl::StatusOr<PageRange> NextRequest() override;
  bool HasRequest() override;

 protected:
  // Puts in a frame; what is full is flushed before.
  absl::Status Add(const PageHeader& header, std::span<const uint8_t> bytes) override;
  // The same of a frame behind which a key comes in place of its bytes.
  absl::Status AddWithKey(const PageHeader& header, const RemoteKey& key);
  // Waits for the destination's next word, and acts on it.
  virtual absl::Status AwaitWord();
  // That a frame is placed.
  absl::Status OnPlaced();
  Stream& stream() const { return *stream_; }
  bool is_empty() const { return frames_ == 0; }

 private:
  static constexpr size_t kMostFrames = 128;
  static constexpr uint64_t kMostBytes = 1 << 20;
  // Also within a unit that is larger than a frame: each has a word to come back, for which there must be room.
  static constexpr size_t kMostOnWayFrames = 64;
  static constexpr size_t kMostRequestsAhead = 64;

  // Puts filler in the place of pages that are lost, in what has not gone. False when there are none, or others that
  // cannot be read.
  bool FillLost();
  // Waits until another frame may be put in.
  absl::Status MakeRoom();
  void PutHeader(const PageHeader& header);
  // What `header` is of is put in.
  void Count(const PageHeader& header);
  // The bytes of a request: what was read ahead of them, and the rest.
  absl::Status ReadRequest(std::span<uint8_t> bytes);

  // Pages of the frames that gather, at most: the last one may be as large as a frame can be.
  static constexpr size_t kMostPages = kMostBytes / kPageBytes + kMaxDataPages;

  const std::unique_ptr<Stream> stream_;
  std::array<std::array<uint8_t, kPageHeaderBytes>, kMostFrames> headers_;
  std::array<std::array<uint8_t, kRemoteKeyBytes>, kMostFrames> keys_;
  std::array<uint32_t, kMostPages> sums_;
  size_t pages_ = 0;  // that have sums
  size_t frames_ = 0;
  std::vector<iovec> pieces_;
  uint64_t gathered_ = 0;
  // What the other end has not said to be placed: the bytes of each frame.
  bool awaits_placed_ = false;
  std::deque<uint64_t> on_way_;
  uint64_t on_way_bytes_ = 0;
  std::vector<uint8_t> ahead_;  // of requests: read, and not given out
  absl::Status ahead_end_;      // what comes behind that, where it is known
};

// Likewise.
class StreamPageFeed : public UrgentFeed {
 public:
  explicit StreamPageFeed(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  absl::StatusOr<PageHeader> Next(PageHandler& handler) override;
  absl::Status Join(WaitSet& set, uint32_t tag) override { return stream_->Join(set, tag); }
  void PreferLatency() override { tells_placed_ = true; }
  void Shutdown() override { stream_->Shutdown(); }
  const std::string& peer() const override { return stream_->peer(); }
  absl::Status Ask(std::span<const PageRange> runs) override;

 protected:
  // All of a frame whose header has come.
  absl::Status TakeFrame(PageHandler& handler, const PageHeader& header);
  // The header of the next frame that is the handler's.
  virtual absl::StatusOr<PageHeader> NextHeader();
  // The bytes of a kPages frame, whose header was begun.
  virtual absl::Status TakePages(PageHandler& handler, const PageHeader& header);
  // To the source.
  virtual absl::Status WriteBack(std::span<const uint8_t> bytes) { return stream_->WriteAll(bytes); }
  Stream& stream() const { return *stream_; }

 private:
  // Of the pages of `run`, whose bytes have come.
  absl::Status Compare(PageHandler& handler, const PageRange& run, std::span<const uint8_t> bytes,
                       std::span<const uint32_t> sums);
  absl::Status Drop(uint64_t bytes);

  const std::unique_ptr<Stream> stream_;
  bool tells_placed_ = false;
  std::vector<uint8_t> dropped_;  // where bytes go that nobody needs; made when first needed
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_PAGES_H_
