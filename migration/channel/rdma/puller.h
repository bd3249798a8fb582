// Pages that the destination reads out of the source's memory, into memory of its own.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_PULLER_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_PULLER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "memory/guest_address.h"
#include "memory/page_range.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rdma/work_waiter.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// Errors: UNAVAILABLE, as the queue pair. Threads: one; Break() from any.
class Puller {
 public:
  // That are read at once, in one piece: as many as a frame has.
  static constexpr uint64_t kMostBytes = uint64_t{kMaxDataPages} * kPageBytes;
  // Of what is read early.
  static constexpr uint64_t kMostEarlyBytes = uint64_t{64} << 10;
  static constexpr size_t kMostEarly = 16;

  // `pair` is connected, and made of `domain`; `stream` and `clock` outlive it.
  static absl::StatusOr<std::unique_ptr<Puller>> Create(std::unique_ptr<QueuePair> pair,
                                                        std::shared_ptr<VerbsDomain> domain, const Stream& stream,
                                                        absl::Duration patience, const Clock& clock);

  // Reads `bytes`, at most kMostBytes, and waits for them. They stay as they are until the next call.
  absl::StatusOr<std::span<const uint8_t>> Read(const RemotePiece& from, uint64_t bytes);

  // Begins to read pages that somebody waits for, if there is room for them.
  absl::Status BeginEarly(const PageRange& pages, const RemotePiece& from);
  // The first of those that were read, whose bytes stay as they are until the next call here. Never waits.
  struct Early {
    PageRange pages;
    std::span<const uint8_t> bytes;
  };
  absl::StatusOr<std::optional<Early>> TakeEarly();
  // The same of the one with `page`; waits for it. None where it is not being read.
  absl::StatusOr<std::optional<Early>> AwaitEarly(uint16_t region, uint64_t page);

  void Break() { pair_->Break(); }
  // Readable when there may be something for TakeEarly(), which had nothing.
  int fd() const { return pair_->fd(); }

 private:
  struct Slot {
    bool is_used = false;
    bool is_read = false;
    PageRange pages;
  };
  static constexpr uint64_t kWhole = kMostEarly;  // the id of Read()'s; others are those of their slots

  Puller(std::unique_ptr<QueuePair> pair, std::shared_ptr<VerbsDomain> domain, Mapping memory, const Stream& stream,
         absl::Duration patience, const Clock& clock);
  std::span<uint8_t> SlotMemory(size_t slot) const;
  Early Take(size_t slot);
  void Note(std::span<const Completion> over);

  const std::shared_ptr<VerbsDomain> domain_;
  const Mapping memory_;  // of Read(), and then of the slots
  std::unique_ptr<RegisteredMemory> registered_;
  // Gone before what it reads to.
  const std::unique_ptr<QueuePair> pair_;
  WorkWaiter waiter_;
  std::array<Slot, kMostEarly> slots_;
  bool whole_is_read_ = false;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_PULLER_H_
