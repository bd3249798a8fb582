// What of a disk is still to be copied, and what is being copied.
#ifndef FERRITE_MIGRATION_SENDING_DIRTY_CHUNKS_H_
#define FERRITE_MIGRATION_SENDING_DIRTY_CHUNKS_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "migration/sending/chunk_bitmap.h"

namespace ferrite::migration {

// Neighbouring chunks that were taken together.
struct ChunkRun {
  uint64_t first = 0;
  uint64_t count = 0;
  bool fresh = false;  // nothing of it was taken before: the target was not written to there
  bool alone = false;  // copying it failed the last time

  uint64_t end() const { return first + count; }
};

// The chunks of a disk: dirty, in flight, both (written again meanwhile), or clean. Memory: four bits a chunk.
//
// Threads: any. No call takes memory or waits for more than another call's end, which takes a time by the length of its
// range (2^20 chunks: some 20 us).
class DirtyChunks {
 public:
  struct Shape {
    uint64_t bytes = 0;           // the disk's
    uint32_t granularity = 0;     // bytes of a chunk: a power of two
    uint64_t cluster_chunks = 1;  // what is taken together the first time: a power of two
  };

  // All dirty. Errors as ChunkBitmap::Create().
  static absl::StatusOr<std::unique_ptr<DirtyChunks>> Create(const Shape& shape);

  uint64_t chunks() const { return chunks_; }
  uint32_t granularity() const { return shape_.granularity; }
  uint64_t cluster_chunks() const { return shape_.cluster_chunks; }
  uint64_t bytes() const { return shape_.bytes; }
  // Less for what has the end of a disk that is no multiple of the granularity.
  uint64_t BytesOf(uint64_t first, uint64_t count) const;

  // [offset, offset + bytes) was written; what lies past the end is ignored. A chunk in flight is dirty, too, from here
  // on. Whether a chunk became dirty that was not.
  bool Mark(uint64_t offset, uint64_t bytes);
  // The same, but where all chunks of it were clean, and were copied before, they are not dirty now but in flight: the
  // caller copies what was written and no more. Nothing then, and nothing was marked, when they were not.
  std::optional<ChunkRun> Claim(uint64_t offset, uint64_t bytes);

  // The first chunk in [from, end) that is dirty and not in flight.
  std::optional<uint64_t> FindDirty(uint64_t from, uint64_t end) const;
  // The first one in [from, end) that is dirty or in flight, else `end`.
  uint64_t FindUnclean(uint64_t from, uint64_t end) const;
  // That one and its neighbours are in flight and not dirty any more: at most `most`, and none of [end, ...). The first
  // time, whole clusters: also what is clean, before it and behind `end`; and one cluster at least, whatever `most` is.
  // A chunk that could not be copied the last time goes alone. Count 0: there is none.
  ChunkRun Take(uint64_t from, uint64_t end, uint64_t most);

  // Of a run that was taken or claimed, or a part of it: copied.
  void Done(const ChunkRun& run);
  // The same, and the target was not written to.
  void Spared(const ChunkRun& run);
  // It was not copied, and is dirty again.
  void GiveBack(const ChunkRun& run);
  // The same, because it could not be.
  void Failed(const ChunkRun& run);

  struct Bytes {
    uint64_t dirty = 0;
    uint64_t in_flight = 0;  // and not dirty again
    uint64_t dirtied = 0;    // that became dirty since the beginning, each time
    uint64_t failed = 0;     // that could not be copied the last time
  };
  Bytes Count() const;

 private:
  DirtyChunks(const Shape& shape, uint64_t chunks, ChunkBitmap dirty, ChunkBitmap in_flight, ChunkBitmap taken,
              ChunkBitmap alone);

  struct Range {
    uint64_t first = 0;
    uint64_t count = 0;
  };
  Range ChunksOf(uint64_t offset, uint64_t bytes) const;
  std::optional<uint64_t> FindDirtyLocked(uint64_t from, uint64_t end) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  static bool HasNone(const ChunkBitmap& bitmap, uint64_t first, uint64_t end);
  // Of a bitmap with `count` set.
  uint64_t BytesIn(uint64_t count, bool has_last) const;

  const Shape shape_;
  const uint64_t chunks_;
  mutable absl::Mutex mutex_;
  ChunkBitmap dirty_ ABSL_GUARDED_BY(mutex_);
  ChunkBitmap in_flight_ ABSL_GUARDED_BY(mutex_);
  ChunkBitmap taken_ ABSL_GUARDED_BY(mutex_);  // whole clusters
  ChunkBitmap alone_ ABSL_GUARDED_BY(mutex_);
  uint64_t dirtied_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_DIRTY_CHUNKS_H_
