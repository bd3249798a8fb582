// The source's end of a page or urgent channel: where pages go out.
#ifndef FERRITE_MIGRATION_CHANNEL_PAGE_SINK_H_
#define FERRITE_MIGRATION_CHANNEL_PAGE_SINK_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "memory/page_range.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// What is put in gathers until Flush(). Who holds it back (a limit of bandwidth) looks at full(): what is put in when
// there is enough makes that go by itself. Frames arrive in the order in which they were put in.
//
// Errors: UNAVAILABLE when the connection is lost or was shut down; RESOURCE_EXHAUSTED when the memory that bytes come
// from cannot be had, after which the channel is of no more use.
//
// Threads: one; Shutdown() from any.
class PageSink {
 public:
  virtual ~PageSink() = default;

  // At most kMaxDataPages. The bytes are read from where they are, at any time until they have gone: they may change
  // meanwhile, and then belong to a page that is sent again. DATA_LOSS, and nothing was put in, when the hardware lost
  // one of them (R9). In the place of one that is lost from then on comes filler. The finder was told of both, of that
  // of a DATA_LOSS last.
  absl::Status Pages(const PageRange& run, std::span<const uint8_t> bytes) {
    return Add(HeaderOf(PageFrameType::kPages, run), bytes);
  }
  // At most UINT32_MAX.
  absl::Status Zero(const PageRange& run) { return Add(HeaderOf(PageFrameType::kZero, run), {}); }
  // What the hardware has lost (R9).
  absl::Status Lost(const PageRange& run) { return Add(HeaderOf(PageFrameType::kPoison, run), {}); }
  absl::Status EndRound(uint32_t number) { return Add({.type = PageFrameType::kRound, .count = number}, {}); }
  // Returns when all of it is on its way and no byte of it is read any more.
  virtual absl::Status Flush() = 0;
  // No round with memory follows: what this kind does beside the frames (it writes to the other side's memory) it does
  // no more, and tells the other side so. When nothing gathers. Again, it does nothing.
  virtual absl::Status EndRounds() { return absl::OkStatus(); }

  // Asked of each page that cannot be read, by an address in it, during Pages() and Flush(): OK when the hardware lost
  // it. Without one, none is.
  using Finder = std::function<absl::Status(const uint8_t* address)>;
  virtual void SetFinder(Finder finder) { finder_ = std::move(finder); }

  // What has gathered, as bytes of the line.
  virtual uint64_t gathered_bytes() const = 0;
  virtual bool full() const = 0;

  // From here on what is put in must not wait behind much: for pages that somebody waits for. Both ends say so, between
  // two frames.
  virtual void PreferLatency() = 0;
  // Then: waits until of what has gone no more than one frame, or less than `bytes`, is still on its way or waits to be
  // placed.
  virtual absl::Status AwaitPlaced(uint64_t bytes) = 0;
  // And how long what goes now waits on the line for what went before it, over whatever channels: as far as that can be
  // known, lately.
  virtual absl::Duration QueueDelay() const { return absl::ZeroDuration(); }
  virtual void Shutdown() = 0;
  // How long the other end may make no progress, where the channel watches that: from the next Flush() on, or the one
  // that is on. Any thread.
  virtual void SetPatience(absl::Duration /*patience*/) {}
  // For messages.
  virtual const std::string& peer() const = 0;

 protected:
  // Puts in a frame; what is full is flushed before.
  virtual absl::Status Add(const PageHeader& header, std::span<const uint8_t> bytes) = 0;
  // Of a page that cannot be read.
  absl::Status Find(const uint8_t* address) const {
    return finder_ != nullptr ? finder_(address)
                              : absl::ResourceExhaustedError("memory that is to be sent cannot be had");
  }

 private:
  Finder finder_;
};

// Of an urgent channel, over which the destination asks. Threads: one for both.
class UrgentSink : public PageSink {
 public:
  // The pages that are asked for next; whether there are such is not looked at. Waits without a limit. OUT_OF_RANGE
  // when the destination has closed the channel: it has everything. INVALID_ARGUMENT for what is no request.
  virtual absl::StatusOr<PageRange> NextRequest() = 0;
  // Whether that would not wait. False where a kind cannot tell.
  virtual bool HasRequest() { return false; }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_PAGE_SINK_H_
