// How memory is registered where a move goes over RDMA (docs/rdma.md).
#ifndef FERRITE_MIGRATION_API_RDMA_OPTIONS_H_
#define FERRITE_MIGRATION_API_RDMA_OPTIONS_H_

#include <cstdint>

namespace ferrite::migration {

// Of a side, and not of the move: each has its own.
struct RdmaOptions {
  static constexpr uint64_t kLeastChunk = uint64_t{2} << 20;
  static constexpr uint64_t kMostChunk = uint64_t{1} << 30;

  enum class Pin {
    kChunks,  // "chunks": those that pages go to or come from, when they do
    kAll,     // "all": all of a machine's memory, from the start
  };
  Pin pin = Pin::kChunks;
  // A power of two of bytes, kLeastChunk to kMostChunk: what is registered at a time.
  uint64_t chunk_bytes = uint64_t{32} << 20;

  bool operator==(const RdmaOptions&) const = default;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_RDMA_OPTIONS_H_
