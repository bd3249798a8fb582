// What may be chosen of moves over RDMA (docs/rdma.md).
#ifndef FERRITE_MIGRATION_API_RDMA_OPTIONS_H_
#define FERRITE_MIGRATION_API_RDMA_OPTIONS_H_

#include <bit>
#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {

enum class RdmaPin {
  kChunks,  // "chunks": memory is registered in chunks, when there is data for it
  kAll,     // "all": all of it, from the start
};

inline constexpr uint64_t kLeastRdmaChunk = uint64_t{2} << 20;
inline constexpr uint64_t kMostRdmaChunk = uint64_t{1} << 30;
// Whether memory can be registered in chunks of so many bytes.
constexpr bool IsRdmaChunk(uint64_t bytes) {
  return bytes >= kLeastRdmaChunk && bytes <= kMostRdmaChunk && std::has_single_bit(bytes);
}

// Of a side, and not of the move: each has its own.
struct RdmaOptions {
  RdmaPin pin = RdmaPin::kChunks;
  uint64_t chunk_bytes = uint64_t{32} << 20;
  // How long a queue pair may take to be connected.
  absl::Duration connect_limit = absl::Seconds(15);

  bool operator==(const RdmaOptions&) const = default;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_RDMA_OPTIONS_H_
