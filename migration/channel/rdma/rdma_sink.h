// The source's end of a page channel with a queue pair beside it, over which pages are written to their place.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_SINK_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_SINK_H_

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
#include "migration/channel/rdma/rdma_reach.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rdma/work_waiter.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// Pages of chunks whose keys are here go by RDMA WRITE as they are put in, and the frame says so; others go behind
// their header. Flush() returns when all that was posted is over. Threads: as PageSink.
class RdmaPageSink final : public StreamPageSink {
 public:
  struct Pairs {
    std::unique_ptr<QueuePair> push = nullptr;  // null for an urgent channel: nothing is written
    std::unique_ptr<QueuePair> pull = nullptr;  // over which the destination reads
  };
  // They are connected, and `clock` outlives it.
  static absl::StatusOr<std::unique_ptr<RdmaPageSink>> Create(std::unique_ptr<Stream> stream, Pairs pairs,
                                                              std::shared_ptr<RdmaReach> reach, absl::Duration patience,
                                                              const Clock& clock);

  absl::Status Flush() override;
  absl::Status EndRounds() override;
  // Before the first: tells which of the source's memory can be read.
  absl::StatusOr<PageRange> NextRequest() override;
  void PreferLatency() override;
  uint64_t gathered_bytes() const override { return StreamPageSink::gathered_bytes() + beside_; }
  bool full() const override { return StreamPageSink::full() || beside_ >= kMostBeside; }
  void Shutdown() override;
  void SetPatience(absl::Duration patience) override;

 private:
  // More than goes over a stream at once: it is on its way while more is put in.
  static constexpr uint64_t kMostBeside = uint64_t{8} << 20;
  // The message of a SEND: only that it comes is looked at.
  static constexpr size_t kMessageBytes = 8;

  RdmaPageSink(std::unique_ptr<Stream> stream, Pairs pairs, std::shared_ptr<RdmaReach> reach, Mapping message,
               absl::Duration patience, const Clock& clock);

  absl::Status Add(const PageHeader& header, std::span<const uint8_t> bytes) override;
  // An error where one of them is lost.
  absl::Status LookAt(const PageRange& run, std::span<const uint8_t> bytes) const;
  absl::Status AddPages(const PageRange& run, std::span<const uint8_t> bytes);
  // Behind the switchover: the destination reads them from where they are.
  absl::Status AddReadable(const PageRange& run, std::span<const uint8_t> bytes);
  absl::Status TellKeys();
  absl::Status Write(const PageRange& run, const RdmaReach::Way& way);
  absl::Status FlushAll();
  // Waits until no more than `most` of what was posted is under way.
  absl::Status AwaitWork(size_t most);
  absl::Status AwaitWord() override;
  // Reads on of what the destination says, which may be part of it: whether it was whole, and acted on.
  absl::StatusOr<bool> ReadWord(bool waits);
  absl::Status OnFrame(std::span<const uint8_t> bytes);

  const std::shared_ptr<RdmaReach> reach_;
  const Mapping message_memory_;
  std::unique_ptr<RegisteredMemory> message_;
  // Gone before what is written from.
  const std::unique_ptr<QueuePair> push_;
  const std::unique_ptr<QueuePair> pull_;
  std::optional<WorkWaiter> waiter_;  // of `push_`
  size_t under_way_ = 0;              // of what was posted
  uint64_t beside_ = 0;               // bytes that do not go over the stream, since the last Flush()
  bool has_barrier_ = false;          // of what gathers: written frames have one before them
  uint32_t sends_ = 0;                // those that were posted
  bool has_memory_ = false;           // pages of it were put in since the last round
  bool awaits_arrival_ = false;       // the round ends when the destination says that all of it has come
  bool ended_ = false;                // the rounds
  bool is_live_ = false;              // the switchover is over
  bool told_keys_ = false;
  std::array<uint8_t, kPageHeaderBytes + kRemoteKeyBytes> word_;  // what the destination says, as far as it has come
  size_t word_bytes_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_SINK_H_
