// The guest's writes whose answer waits for the target.
#ifndef FERRITE_MIGRATION_SENDING_HELD_WRITES_H_
#define FERRITE_MIGRATION_SENDING_HELD_WRITES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"
#include "migration/sending/dirty_chunks.h"

namespace ferrite::migration {

// A table of fixed size. A write is at the target when each of its chunks was copied by an operation that began after
// it, or is clean.
//
// Threads: Wrote() and holds() on any; the rest on the mirror's.
class HeldWrites {
 public:
  // As many as any device of ours has writes in flight (4 queues of 256). A discard is told of once for each of its
  // ranges, and so may be more. When all are held, the next one is answered at once: it is dirty as in the background,
  // and the guest has one write that only the source has.
  static constexpr size_t kMost = 1024;

  // `chunks` outlives it. Where all chunks of a write were clean, what was written is copied alone, rounded to
  // `block_bytes`, when that is `most_alone` at most. Throws std::bad_alloc.
  HeldWrites(DirtyChunks& chunks, uint32_t block_bytes, uint64_t most_alone);

  struct Outcome {
    uint64_t ticket = 0;   // 0: not held
    bool is_news = false;  // there is something to copy that was not before
  };
  // Marks what was written.
  Outcome Wrote(uint64_t offset, uint64_t bytes);
  bool holds() const;

  void Hold();
  // Does not hold from here on. Adds all that is held to `answers`.
  void LetGo(std::vector<uint64_t>& answers);

  // What a held write waits for.
  struct Wanted {
    uint64_t ticket = 0;
    uint64_t first = 0;  // chunks: [first, end)
    uint64_t end = 0;
    // These bytes alone, and `run` is in flight for it already.
    bool is_alone = false;
    bool is_started = false;  // of is_alone
    ChunkRun run;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    MonotonicTime since = MonotonicTime::InfiniteFuture();  // not seen yet
  };
  // The oldest is 0. Nothing for an index past the youngest.
  std::optional<Wanted> Get(size_t index) const;
  // The caller copies what Get(index) wants alone.
  void Start(size_t index);

  // Sees at `now`, which does not go back, what is held and was not seen before. Returns when the oldest was seen;
  // InfiniteFuture: nothing is held.
  MonotonicTime See(MonotonicTime now);

  // Of the youngest so far: what begins to be read from now on has all of them.
  uint64_t last_ticket() const;
  // `run` is at the target as it was when `ticket` was the last one.
  void Copied(const ChunkRun& run, uint64_t ticket);
  // What `ticket` wanted alone is.
  void CopiedAlone(uint64_t ticket);
  // Adds what is at the target to `answers`.
  void TakeCopied(std::vector<uint64_t>& answers);

  uint64_t held_in_all() const { return last_ticket(); }

 private:
  DirtyChunks& chunks_;
  const uint32_t block_bytes_;
  const uint64_t most_alone_;
  mutable absl::Mutex mutex_;
  bool holds_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Wanted> held_ ABSL_GUARDED_BY(mutex_);  // the oldest first; never more than was reserved
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_HELD_WRITES_H_
