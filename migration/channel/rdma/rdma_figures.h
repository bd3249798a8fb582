// What moves over RDMA cost in registered memory, and how their bytes went.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_FIGURES_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_FIGURES_H_

#include <atomic>
#include <cstdint>

namespace ferrite::migration {

// Of one side of a move, over all its channels. Threads: any.
struct RdmaFigures {
  std::atomic<uint64_t> registered_chunks{0};
  std::atomic<uint64_t> registered_bytes{0};
  std::atomic<uint64_t> registering_nanoseconds{0};  // of all of them together
  std::atomic<uint64_t> refused_chunks{0};           // that could not be registered: their pages went over the stream
  std::atomic<uint64_t> written_bytes{0};            // by WRITE: at the source, those that were sent so
  std::atomic<uint64_t> read_bytes{0};               // by READ: at the source that were offered, there that were read
  std::atomic<uint64_t> inline_bytes{0};             // of pages of memory, over the stream, likewise
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_FIGURES_H_
