#include "migration/sending/dirty_chunks.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<DirtyChunks>> DirtyChunks::Create(const Shape& shape) {
  FERRITE_CHECK(std::has_single_bit(shape.granularity) && std::has_single_bit(shape.cluster_chunks));
  const uint64_t chunks = shape.bytes / shape.granularity + (shape.bytes % shape.granularity != 0 ? 1 : 0);
  FERRITE_ASSIGN_OR_RETURN(ChunkBitmap dirty, ChunkBitmap::Create(chunks));
  FERRITE_ASSIGN_OR_RETURN(ChunkBitmap in_flight, ChunkBitmap::Create(chunks));
  FERRITE_ASSIGN_OR_RETURN(ChunkBitmap taken, ChunkBitmap::Create(chunks));
  FERRITE_ASSIGN_OR_RETURN(ChunkBitmap alone, ChunkBitmap::Create(chunks));
  (void)dirty.SetRange(0, chunks);
  return std::unique_ptr<DirtyChunks>(
      new DirtyChunks(shape, chunks, std::move(dirty), std::move(in_flight), std::move(taken), std::move(alone)));
}

DirtyChunks::DirtyChunks(const Shape& shape, uint64_t chunks, ChunkBitmap dirty, ChunkBitmap in_flight,
                         ChunkBitmap taken, ChunkBitmap alone)
    : shape_(shape),
      chunks_(chunks),
      dirty_(std::move(dirty)),
      in_flight_(std::move(in_flight)),
      taken_(std::move(taken)),
      alone_(std::move(alone)) {}

uint64_t DirtyChunks::BytesOf(uint64_t first, uint64_t count) const {
  const uint64_t end = first + count;
  return (end == chunks_ ? shape_.bytes : end * shape_.granularity) - first * shape_.granularity;
}

DirtyChunks::Range DirtyChunks::ChunksOf(uint64_t offset, uint64_t bytes) const {
  if (bytes == 0 || offset >= shape_.bytes) {
    return {};
  }
  const uint64_t last = offset + std::min(bytes, shape_.bytes - offset) - 1;
  const uint64_t first = offset / shape_.granularity;
  return {first, last / shape_.granularity - first + 1};
}

bool DirtyChunks::Mark(uint64_t offset, uint64_t bytes) {
  const Range range = ChunksOf(offset, bytes);
  if (range.count == 0) {
    return false;
  }
  const absl::MutexLock lock(&mutex_);
  const bool had_last = dirty_.Test(chunks_ - 1);
  const uint64_t changed = dirty_.SetRange(range.first, range.count);
  dirtied_ += BytesIn(changed, !had_last && range.first + range.count == chunks_);
  return changed != 0;
}

std::optional<ChunkRun> DirtyChunks::Claim(uint64_t offset, uint64_t bytes) {
  const Range range = ChunksOf(offset, bytes);
  const uint64_t end = range.first + range.count;
  if (range.count == 0) {
    return std::nullopt;
  }
  const absl::MutexLock lock(&mutex_);
  if (!HasNone(dirty_, range.first, end) || !HasNone(in_flight_, range.first, end) ||
      taken_.FindClear(range.first, end) != end || !HasNone(alone_, range.first, end)) {
    return std::nullopt;
  }
  (void)in_flight_.SetRange(range.first, range.count);
  dirtied_ += BytesOf(range.first, range.count);
  return ChunkRun{.first = range.first, .count = range.count};
}

std::optional<uint64_t> DirtyChunks::FindDirty(uint64_t from, uint64_t end) const {
  const absl::MutexLock lock(&mutex_);
  return FindDirtyLocked(from, end);
}

std::optional<uint64_t> DirtyChunks::FindDirtyLocked(uint64_t from, uint64_t end) const {
  end = std::min(end, chunks_);
  std::optional<uint64_t> found = dirty_.FindSet(from);
  // What was written again while it is in flight: a few runs at most.
  while (found.has_value() && *found < end && in_flight_.Test(*found)) {
    found = dirty_.FindSet(in_flight_.FindClear(*found, chunks_));
  }
  return found.has_value() && *found < end ? found : std::nullopt;
}

uint64_t DirtyChunks::FindUnclean(uint64_t from, uint64_t end) const {
  const absl::MutexLock lock(&mutex_);
  return std::min({dirty_.FindSet(from).value_or(end), in_flight_.FindSet(from).value_or(end), end});
}

bool DirtyChunks::HasNone(const ChunkBitmap& bitmap, uint64_t first, uint64_t end) {
  return bitmap.FindSet(first).value_or(end) >= end;
}

ChunkRun DirtyChunks::Take(uint64_t from, uint64_t end, uint64_t most) {
  const uint64_t cluster = shape_.cluster_chunks;
  const absl::MutexLock lock(&mutex_);
  const std::optional<uint64_t> found = FindDirtyLocked(from, end);
  if (!found.has_value()) {
    return {};
  }
  ChunkRun run{.first = *found, .fresh = !taken_.Test(*found), .alone = alone_.Test(*found)};
  uint64_t run_end = std::min({end, chunks_, run.first + std::max<uint64_t>(most, 1)});
  if (run.alone) {
    run_end = run.first + 1;
  } else {
    run_end = dirty_.FindClear(run.first, run_end);
    run_end = std::min(
        {run_end, in_flight_.FindSet(run.first).value_or(run_end), alone_.FindSet(run.first).value_or(run_end)});
    run_end = run.fresh ? std::min(run_end, taken_.FindSet(run.first).value_or(run_end))
                        : taken_.FindClear(run.first, run_end);
  }
  if (run.fresh && cluster > 1) {
    // Nobody has taken anything of these clusters, so nothing else of them is in flight.
    const uint64_t limit = run.first / cluster * cluster + std::max(most / cluster, uint64_t{1}) * cluster;
    run.first = run.first / cluster * cluster;
    run_end = std::min({(run_end + cluster - 1) / cluster * cluster, limit, chunks_});
  }
  run.count = run_end - run.first;
  (void)dirty_.ClearRange(run.first, run.count);
  (void)in_flight_.SetRange(run.first, run.count);
  (void)taken_.SetRange(run.first, run.count);
  return run;
}

void DirtyChunks::Done(const ChunkRun& run) {
  const absl::MutexLock lock(&mutex_);
  (void)in_flight_.ClearRange(run.first, run.count);
  if (run.alone) {
    (void)alone_.ClearRange(run.first, run.count);
  }
}

void DirtyChunks::Spared(const ChunkRun& run) {
  const absl::MutexLock lock(&mutex_);
  (void)in_flight_.ClearRange(run.first, run.count);
  if (run.alone) {
    (void)alone_.ClearRange(run.first, run.count);
  }
  if (run.fresh) {
    (void)taken_.ClearRange(run.first, run.count);
  }
}

void DirtyChunks::GiveBack(const ChunkRun& run) {
  const absl::MutexLock lock(&mutex_);
  (void)in_flight_.ClearRange(run.first, run.count);
  (void)dirty_.SetRange(run.first, run.count);
  if (run.fresh) {
    (void)taken_.ClearRange(run.first, run.count);
  }
}

void DirtyChunks::Failed(const ChunkRun& run) {
  const absl::MutexLock lock(&mutex_);
  (void)in_flight_.ClearRange(run.first, run.count);
  (void)dirty_.SetRange(run.first, run.count);
  (void)alone_.SetRange(run.first, run.count);
}

uint64_t DirtyChunks::BytesIn(uint64_t count, bool has_last) const {
  return count * shape_.granularity - (has_last ? chunks_ * shape_.granularity - shape_.bytes : 0);
}

DirtyChunks::Bytes DirtyChunks::Count() const {
  const absl::MutexLock lock(&mutex_);
  const bool last_dirty = dirty_.Test(chunks_ - 1);
  const bool last_in_flight = in_flight_.Test(chunks_ - 1);
  const uint64_t both = ChunkBitmap::CountCommon(dirty_, in_flight_);
  return {.dirty = BytesIn(dirty_.count(), last_dirty),
          .in_flight = BytesIn(in_flight_.count() - both, last_in_flight && !last_dirty),
          .dirtied = dirtied_,
          .failed = BytesIn(alone_.count(), alone_.Test(chunks_ - 1))};
}

}  // namespace ferrite::migration
