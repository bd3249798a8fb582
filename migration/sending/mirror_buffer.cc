#include "migration/sending/mirror_buffer.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<MirrorBuffer> MirrorBuffer::Create(uint64_t bytes, uint64_t slot_bytes) {
  const uint64_t slots = bytes / slot_bytes;
  FERRITE_CHECK(slots > 0);
  FERRITE_ASSIGN_OR_RETURN(ChunkBitmap used, ChunkBitmap::Create(slots));
  absl::StatusOr<Mapping> memory =
      Mapping::Create("the buffer of a mirror", slots * slot_bytes, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!memory.ok()) {
    return absl::ResourceExhaustedError(memory.status().message());
  }
  return MirrorBuffer(*std::move(memory), std::move(used), slot_bytes);
}

MirrorBuffer::MirrorBuffer(Mapping memory, ChunkBitmap used, uint64_t slot_bytes)
    : memory_(std::move(memory)), used_(std::move(used)), slot_bytes_(slot_bytes) {}

std::span<uint8_t> MirrorBuffer::Allocate(uint64_t least, uint64_t most, uint64_t spare) {
  const uint64_t free_slots = used_.chunks() - used_.count();
  const uint64_t least_slots = std::max<uint64_t>(SlotsFor(least), 1);
  if (least_slots + SlotsFor(spare) > free_slots) {
    return {};
  }
  const uint64_t most_slots = std::clamp(SlotsFor(most), least_slots, free_slots - SlotsFor(spare));
  uint64_t best = 0;
  uint64_t best_slots = 0;
  for (uint64_t from = 0; from < used_.chunks() && best_slots < most_slots;) {
    const uint64_t first = used_.FindClear(from, used_.chunks());
    const uint64_t end = used_.FindSet(first).value_or(used_.chunks());
    if (end - first > best_slots) {
      best = first;
      best_slots = end - first;
    }
    from = end;
  }
  if (best_slots < least_slots) {
    return {};
  }
  best_slots = std::min(best_slots, most_slots);
  (void)used_.SetRange(best, best_slots);
  return memory_.span().subspan(best * slot_bytes_, best_slots * slot_bytes_);
}

void MirrorBuffer::Shrink(std::span<uint8_t>& piece, uint64_t bytes) {
  const uint64_t kept = std::max<uint64_t>(SlotsFor(bytes), 1) * slot_bytes_;
  FERRITE_CHECK(kept <= piece.size());
  Free(piece.subspan(kept));
  piece = piece.first(kept);
}

void MirrorBuffer::Free(std::span<uint8_t> piece) {
  if (!piece.empty()) {
    const uint64_t slots = piece.size() / slot_bytes_;
    FERRITE_CHECK(used_.ClearRange(SlotOf(piece.data()), slots) == slots);
  }
}

}  // namespace ferrite::migration
