// The destination's end of a page channel with a queue pair beside it, over which the source writes pages to their
// place.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_FEED_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_FEED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/rdma/puller.h"
#include "migration/channel/rdma/rdma_place.h"
#include "migration/channel/rdma/stream_writer.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rdma/work_waiter.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// Threads: as PageFeed.
class RdmaPageFeed final : public StreamPageFeed {
 public:
  // Both are connected, and made of `domain`; `clock` outlives it. The stream is taken where that goes well.
  static absl::StatusOr<std::unique_ptr<RdmaPageFeed>> Create(std::unique_ptr<Stream>& stream,
                                                              std::unique_ptr<QueuePair> push,
                                                              std::unique_ptr<QueuePair> pull,
                                                              std::shared_ptr<VerbsDomain> domain,
                                                              std::shared_ptr<RdmaPlace> place, absl::Duration patience,
                                                              const Clock& clock);
  ~RdmaPageFeed() override;

  void Shutdown() override;

 private:
  // Of one SEND: what is in it is not looked at.
  static constexpr size_t kMessageBytes = 8;

  // Where messages come to.
  struct Messages {
    Mapping memory;
    std::unique_ptr<RegisteredMemory> registered;
  };
  RdmaPageFeed(std::unique_ptr<Stream> stream, std::unique_ptr<QueuePair> push, std::unique_ptr<Puller> puller,
               std::shared_ptr<VerbsDomain> domain, std::shared_ptr<RdmaPlace> place, Messages messages,
               absl::Duration patience, const Clock& clock);

  absl::StatusOr<PageHeader> NextHeader() override;
  absl::Status TakePages(PageHandler& handler, const PageHeader& header) override;
  absl::Status WriteBack(std::span<const uint8_t> bytes) override { return writer_->Write(bytes); }
  // A frame that is not the handler's. False where it is.
  absl::StatusOr<bool> TakeOwn(const PageHeader& header);
  absl::Status AwaitSend(uint32_t number);
  static absl::Status PostReceive(QueuePair& push, const Messages& messages, uint64_t slot);

  const std::shared_ptr<RdmaPlace> place_;
  const std::shared_ptr<StreamWriter> writer_;
  const std::shared_ptr<VerbsDomain> domain_;
  const Messages messages_;
  // Gone before where its messages go.
  const std::unique_ptr<QueuePair> push_;
  WorkWaiter waiter_;
  const bool may_push_;
  const std::unique_ptr<Puller> puller_;
  uint32_t barrier_ = 0;   // SENDs that were told of
  uint32_t received_ = 0;  // that have come
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_FEED_H_
