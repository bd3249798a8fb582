// The destination's end of an urgent channel with a queue pair beside it, over which it reads the pages that it asks
// for itself.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_URGENT_FEED_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_URGENT_FEED_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "memory/page_range.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/rdma/puller.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/channel/wait_set.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// What is asked for is asked of the source as ever, so that it knows what went, and what to send besides; where its key
// is known it is read at once, too, and what comes first is placed. Next() returns kKey for what was no page.
//
// Threads: as UrgentFeed.
class RdmaUrgentFeed final : public StreamPageFeed {
 public:
  // `puller` goes by `stream`; `clock` outlives it.
  RdmaUrgentFeed(std::unique_ptr<Stream> stream, std::unique_ptr<Puller> puller, const Clock& clock)
      : StreamPageFeed(std::move(stream)), clock_(clock), puller_(std::move(puller)) {}

  absl::StatusOr<PageHeader> Next(PageHandler& handler) override;
  absl::Status Join(WaitSet& set, uint32_t tag) override;
  absl::Status Ask(std::span<const PageRange> runs) override;
  void Shutdown() override;

 private:
  struct Chunk {
    uint64_t count = 0;
    RemoteKey key;
  };
  // Memory that its source may have at most, and bounds what is kept of it.
  static constexpr size_t kMostChunks = size_t{1} << 20;
  // Pages that were placed before the source's frame of them came.
  static constexpr size_t kMostPlaced = 64;

  absl::Status TakePages(PageHandler& handler, const PageHeader& header) override;
  absl::StatusOr<PageHeader> Place(PageHandler& handler, const Puller::Early& early);
  absl::StatusOr<PageHeader> TakeNextFrame(PageHandler& handler);
  // Has `early_`, if something has been read.
  absl::Status LookForEarly();
  std::optional<RemotePiece> Find(const PageRange& run) const;

  const Clock& clock_;
  const std::unique_ptr<Puller> puller_;
  std::map<std::pair<uint16_t, uint64_t>, Chunk> chunks_;  // by region and first page
  std::optional<Puller::Early> early_;
  std::vector<PageRange> placed_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_URGENT_FEED_H_
