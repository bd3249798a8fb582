// Gathers what comes of blocks (2 MiB) of which nothing is here, each in a huge page that the guest does not see, so
// that they are shown whole (docs/architecture.md).
#ifndef FERRITE_MIGRATION_PLACING_BLOCK_GATHERER_H_
#define FERRITE_MIGRATION_PLACING_BLOCK_GATHERER_H_

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "memory/guest_address.h"
#include "migration/placing/huge_cost.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"

namespace ferrite::migration {

// Until they are shown, pages of a block that is gathered are kReceiving, or kAwaited when a fault waits for one: that
// is shown as soon as it has come, and the rest of its block is copied then. Threads: any.
class BlockGatherer {
 public:
  // How pages are shown to the guest. Under the lock of a block, but for Stage().
  class Shower {
   public:
    virtual ~Shower() = default;
    // Makes `memory` where `block` is gathered, with a huge page behind it if there is one. It is empty, or was that of
    // another block.
    virtual absl::Status Stage(uint64_t block, Mapping& memory) = 0;
    // The claimed run, as a copy. Present afterwards, or abandoned.
    virtual absl::Status Copy(PageRun run, const uint8_t* bytes) = 0;
    // A whole block, which may leave `memory` with it. How many pages from the front on are there, and present.
    virtual uint64_t Move(uint64_t block, uint8_t* memory) = 0;
  };

  // `states` has a unit for each page. All outlive it.
  BlockGatherer(PageStates& states, const Clock& clock, Shower& shower);

  // The block that begins with `page` comes, in order, and nothing of it was claimed yet: it is gathered from here on
  // if nothing of it is here and that is worth it. Making its memory may take long; a fault meanwhile is asked for.
  void Begin(uint64_t page);
  // Where the claimed `run`, which is in one block, is to be read to; empty when its block is not gathered.
  std::span<uint8_t> Target(PageRun run);
  // `run` was read to its Target(), or to `buffer` when that is empty.
  absl::Status Publish(PageRun run, const uint8_t* buffer);
  // `run` is zero; `bytes` is its Target(), and not empty.
  absl::Status PublishZero(PageRun run, std::span<uint8_t> bytes);
  // `run` was not read, whatever its Target().
  void Abandon(PageRun run);
  // No more is gathered of the block of `page`: what has come is shown.
  absl::Status End(uint64_t page);
  // A fault waits for `page`, which is being received: whether it is present now.
  absl::StatusOr<bool> ShowWanted(uint64_t page);
  // Gives back what was kept for further blocks.
  void Release();

 private:
  using Pages = std::bitset<kBlockPages>;
  // Where a block is gathered.
  struct Chunk {
    Mapping memory;
    absl::Mutex mutex;
    std::optional<uint64_t> block ABSL_GUARDED_BY(mutex);  // none: it is free
    absl::Duration cost ABSL_GUARDED_BY(mutex);            // what it took to make it, and to show it as a whole
    bool ending ABSL_GUARDED_BY(mutex) = false;            // no more comes to it
    bool zeroed ABSL_GUARDED_BY(mutex) = true;             // where nothing was read to, for this block
    Pages reading ABSL_GUARDED_BY(mutex);
    Pages staged ABSL_GUARDED_BY(mutex);  // has come
    Pages shown ABSL_GUARDED_BY(mutex);   // by itself, or was given up
  };
  static Pages Mask(PageRun run);
  // The open chunk of a block, or null; it may be closed meanwhile.
  std::shared_ptr<Chunk> Find(uint64_t block) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether nothing of the block that begins with `page` is here, or on its way.
  bool IsEmpty(uint64_t page) const;
  // Whether `run` is read to `chunk`.
  bool Reads(const Chunk& chunk, PageRun run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(chunk.mutex);
  // Those of `run` that somebody waits for.
  Pages Awaited(PageRun run) const;
  // `run` has come.
  absl::Status Arrived(Chunk& chunk, PageRun run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(chunk.mutex);
  // All of it has come, and nothing was shown.
  absl::Status Move(Chunk& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(chunk.mutex);
  // Copies those of `which` that were not shown, and have come.
  absl::Status Show(Chunk& chunk, const Pages& which) ABSL_EXCLUSIVE_LOCKS_REQUIRED(chunk.mutex);
  // It is free for another block.
  void Close(Chunk& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(chunk.mutex) ABSL_LOCKS_EXCLUDED(mutex_);

  PageStates& states_;
  const Clock& clock_;
  Shower& shower_;
  HugeCost cost_;
  absl::Mutex mutex_;  // may be taken while a chunk's is held, not the other way round
  struct OpenChunk {
    uint64_t block;
    std::shared_ptr<Chunk> chunk;
  };
  std::vector<OpenChunk> open_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Chunk>> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_BLOCK_GATHERER_H_
