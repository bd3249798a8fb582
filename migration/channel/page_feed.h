// The destination's end of a page or urgent channel: where pages come in.
#ifndef FERRITE_MIGRATION_CHANNEL_PAGE_FEED_H_
#define FERRITE_MIGRATION_CHANNEL_PAGE_FEED_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/page_range.h"
#include "migration/channel/wait_set.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// Says where bytes go before they come: a socket reads them to there, shared memory is copied from there, RDMA has
// advertised it. An error of each ends the frame, and what PageFeed::Next() returns is that error.
//
// Threads: that of PageFeed::Next().
class PageHandler {
 public:
  virtual ~PageHandler() = default;

  // A frame begins. Nothing of it is stored after an error.
  virtual absl::Status Begin(const PageHeader& header) = 0;
  // The first `pages` of those that are still to come have their bytes here; none where nobody needs them.
  struct Target {
    uint64_t pages = 0;
    std::span<uint8_t> bytes;
  };
  virtual absl::StatusOr<Target> NextTarget(const PageRange& rest) = 0;
  // A page of the last target has come with other bytes than those that were summed when it left. Before Filled().
  virtual absl::Status Wrong(const PageRange& page) = 0;
  // A page of the last target has not come: the hardware lost it while it left (R9). Before Filled().
  virtual absl::Status Gone(const PageRange& page) = 0;
  // The pages of the last target have come, but for those. Where they do not, Next() fails.
  virtual absl::Status Filled(const PageRange& run) = 0;
  // Pages whose bytes were written to their place from outside (OutsideWriters): how many at the front of `rest` this
  // piece had, at least one.
  virtual absl::StatusOr<uint64_t> Written(const PageRange& /*rest*/) {
    return absl::InvalidArgumentError("page frame: nobody writes pages from outside");
  }
  // Pages without bytes, which are done piece by piece: how many at the front of `rest` this piece had, at least one.
  // Between two pieces a channel that was shut down ends.
  virtual absl::StatusOr<uint64_t> Zero(const PageRange& rest) = 0;
  virtual absl::StatusOr<uint64_t> Lost(const PageRange& rest) = 0;
};

// Threads: one; Shutdown() from any.
class PageFeed {
 public:
  virtual ~PageFeed() = default;

  // The next frame, handled; its end of a round is for the caller to act on. Waits without a limit for its beginning.
  // OUT_OF_RANGE when the source has closed the channel between two frames, UNAVAILABLE when the connection is lost;
  // INVALID_ARGUMENT for what is no frame; RESOURCE_EXHAUSTED when the memory that bytes go to cannot be had, after
  // which the channel is of no more use.
  virtual absl::StatusOr<PageHeader> Next(PageHandler& handler) = 0;

  // Has `set` wake who waits when there is something for Next().
  virtual absl::Status Join(WaitSet& set, uint32_t tag) = 0;

  // As PageSink's.
  virtual void PreferLatency() = 0;
  // Also of what came before it nothing is handled any more.
  virtual void Shutdown() = 0;
  virtual const std::string& peer() const = 0;
};

// Of an urgent channel. Threads: one for both.
class UrgentFeed : public PageFeed {
 public:
  // Asks the source for these.
  virtual absl::Status Ask(std::span<const PageRange> runs) = 0;
};

// Does what a frame without bytes, or the rest of one, says: for the kinds of PageFeed. `over` is asked before each
// piece.
template <typename Over>
absl::Status HandlePieces(PageHandler& handler, const PageHeader& header, const Over& over) {
  PageRange rest{.region = header.region, .first = header.first_page, .count = header.count};
  while (rest.count > 0) {
    if (absl::Status status = over(); !status.ok()) {
      return status;
    }
    const absl::StatusOr<uint64_t> done = header.type == PageFrameType::kZero ? handler.Zero(rest) : handler.Lost(rest);
    if (!done.ok()) {
      return done.status();
    }
    rest.first += *done;
    rest.count -= *done;
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_PAGE_FEED_H_
