// The memory that a mirror's operations read into.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_BUFFER_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_BUFFER_H_

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "migration/sending/chunk_bitmap.h"

namespace ferrite::migration {

// A buffer of a set size in slots: an operation has neighbouring ones. Nothing is allocated later. Threads: one at a
// time.
class MirrorBuffer {
 public:
  // `slot_bytes`: a multiple of the page. `bytes` is rounded down to whole slots, of which there is one at least.
  // RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<MirrorBuffer> Create(uint64_t bytes, uint64_t slot_bytes);

  // `most` bytes, rounded up to whole slots, at the first place that has them; else the largest free piece, of `least`
  // bytes or more, also rounded up. Empty when there is none, or when less than `spare` bytes would be left free.
  // Begins with a page.
  std::span<uint8_t> Allocate(uint64_t least, uint64_t most, uint64_t spare);
  // `piece` keeps its first `bytes`, rounded up to whole slots, at least one.
  void Shrink(std::span<uint8_t>& piece, uint64_t bytes);
  void Free(std::span<uint8_t> piece);

  uint64_t bytes() const { return used_.chunks() * slot_bytes_; }
  uint64_t used_bytes() const { return used_.count() * slot_bytes_; }

 private:
  MirrorBuffer(Mapping memory, ChunkBitmap used, uint64_t slot_bytes);
  uint64_t SlotsFor(uint64_t bytes) const { return (bytes + slot_bytes_ - 1) / slot_bytes_; }
  uint64_t SlotOf(const uint8_t* data) const { return static_cast<uint64_t>(data - memory_.data()) / slot_bytes_; }

  Mapping memory_;
  ChunkBitmap used_;
  uint64_t slot_bytes_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_BUFFER_H_
