// A frame whose pages are read from the source's memory.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_READ_FRAME_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_READ_FRAME_H_

#include "absl/status/status.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/rdma/puller.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// What is behind the header of a readable frame, which was begun. What the handler does not need is not read, and
// nobody hears of it.
absl::Status TakeReadable(PageHandler& handler, const PageHeader& header, Stream& stream, Puller& puller);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_READ_FRAME_H_
