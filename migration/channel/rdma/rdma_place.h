// The destination's memory, as the source may write it: one for a machine that comes, over all its connections.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_PLACE_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_PLACE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/thread.h"
#include "memory/page_range.h"
#include "migration/api/host.h"
#include "migration/api/rdma_options.h"
#include "migration/channel/outside_writers.h"
#include "migration/channel/rdma/chunks.h"
#include "migration/channel/rdma/rdma_figures.h"
#include "migration/channel/rdma/stream_writer.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/protocol/lanes.h"

namespace ferrite::migration {

// Memory is registered by a thread of its own, "mig-rdma-reg": what comes over the channels does not wait for it. What
// cannot be registered gets no key, for good. Threads: any.
class RdmaPlace final : public OutsideWriters {
 public:
  // `regions` live until End(), `host` longer than this.
  static absl::StatusOr<std::shared_ptr<RdmaPlace>> Create(std::vector<std::span<uint8_t>> regions,
                                                           const RdmaOptions& options,
                                                           std::shared_ptr<RdmaFigures> figures, const Host& host);
  ~RdmaPlace() override { End(); }

  bool may_write() const override { return !ended_.load(std::memory_order_acquire); }
  bool MayHaveWritten(size_t region, uint64_t page) const override;
  void End() override;

  // Over what memory is registered: the same each time. Before the first Ask(); with RdmaPin::kAll, all of it is
  // registered from then on.
  void Begin(std::shared_ptr<VerbsDomain> domain);

  // A chunk is to be registered: `answer` gets its key, or that it has none. INVALID_ARGUMENT for what is no chunk, or
  // chunks of several sizes: how large they are the first one says.
  absl::Status Ask(const PageRange& pages, std::shared_ptr<StreamWriter> answer);
  // INVALID_ARGUMENT unless the source has the keys of all of `run`.
  absl::Status CheckWritten(const PageRange& run) const;

  // A queue pair over which is written, until it is gone; End() breaks it. False, and it is not taken, behind that.
  bool Add(QueuePair& pair);
  void Remove(QueuePair& pair);

 private:
  enum class State : uint8_t { kUntouched, kGiven, kNone };
  struct Chunk {
    State state = State::kUntouched;
    RemoteKey key;
    std::unique_ptr<RegisteredMemory> registered;
  };
  struct Wish {
    size_t chunk;
    std::shared_ptr<StreamWriter> answer;  // null: nobody waits
  };

  RdmaPlace(std::vector<std::span<uint8_t>> regions, const RdmaOptions& options, std::shared_ptr<RdmaFigures> figures,
            const Host& host);
  // The thread's.
  void RegisterAll();
  void Register(const Wish& wish);
  // Settles how memory is cut, once.
  void Cut(uint64_t chunk_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Which chunk that is, of memory that is written from outside.
  absl::StatusOr<size_t> Match(const PageRange& pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || unasked_ > 0 || !wishes_.empty(); }
  static void Answer(const Wish& wish, const PageRange& pages, const RemoteKey& key);

  const std::vector<std::span<uint8_t>> regions_;
  const RdmaOptions options_;
  const std::shared_ptr<RdmaFigures> figures_;
  const Host& host_;
  // By region and 2 MiB: some of it is registered, or was.
  std::vector<std::vector<std::atomic<bool>>> touched_;
  std::atomic<bool> ended_ = false;
  absl::Mutex end_mutex_;  // one ends it, and others wait for that
  mutable absl::Mutex mutex_;
  std::shared_ptr<VerbsDomain> domain_ ABSL_GUARDED_BY(mutex_);
  std::optional<Chunks> chunks_ ABSL_GUARDED_BY(mutex_);  // does not change once it is there
  size_t unasked_ ABSL_GUARDED_BY(mutex_) = 0;  // chunks from the end on that are still to be registered for nobody
  std::vector<Chunk> state_ ABSL_GUARDED_BY(mutex_);
  std::deque<Wish> wishes_ ABSL_GUARDED_BY(mutex_);
  std::set<QueuePair*> pairs_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_PLACE_H_
