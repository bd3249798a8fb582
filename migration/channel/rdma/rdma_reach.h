// The source's memory, and what it may write of the destination's: one for all page channels that are opened together.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_REACH_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_REACH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "memory/page_range.h"
#include "migration/api/rdma_options.h"
#include "migration/channel/rdma/chunks.h"
#include "migration/channel/rdma/rdma_figures.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/protocol/lanes.h"

namespace ferrite::migration {

// A chunk is asked for once, with its first page of data, and the next one with it, where that seems to have data, too;
// its memory here is registered when the key has come: what is never sent stays as it is. Where either cannot be had,
// its pages go over the stream for good. What is registered stays so until this object is gone.
//
// Threads: any.
class RdmaReach {
 public:
  // `regions` and `clock` outlive it.
  RdmaReach(std::vector<std::span<uint8_t>> regions, const RdmaOptions& options, std::shared_ptr<VerbsDomain> domain,
            std::shared_ptr<RdmaFigures> figures, const Clock& clock);

  // How the pages at the front of `run` go.
  struct Way {
    uint64_t pages = 0;  // how many of them go so
    bool is_written = false;
    LocalPiece from;
    RemotePiece to;
  };
  // May register memory, and waits for that.
  Way Find(const PageRange& run);
  // How the other side reads the pages at the front of `run`, as Way::pages tells of Find(). `registers`: may register
  // memory for that, and waits for it.
  struct Readable {
    uint64_t pages = 0;
    RemoteKey key;  // where they are; none where they cannot be read
  };
  Readable FindReadable(const PageRange& run, bool registers);
  // Chunks that can be read now, of which nothing is lost.
  struct ReadableChunk {
    PageRange pages;
    RemoteKey key;
  };
  std::vector<ReadableChunk> ReadableChunks();
  // The chunks whose keys are to be asked for when data at the front of `run` goes: each is returned once.
  std::vector<PageRange> TakeAsks(const PageRange& run);
  // INVALID_ARGUMENT for a key that was not asked for.
  absl::Status OnKey(const PageRange& pages, const RemoteKey& key);

  // Whether pages of that region may be written.
  bool HasMemory(uint16_t region) const { return chunks_.Find(region, 0).has_value(); }
  RdmaFigures& figures() { return *figures_; }
  VerbsDomain& domain() { return *domain_; }

 private:
  enum class Key : uint8_t { kUnknown, kAsked, kGiven, kNone };
  enum class Memory : uint8_t { kUntouched, kRegistering, kRegistered, kRefused };
  struct Chunk {
    Key key = Key::kUnknown;
    Memory memory = Memory::kUntouched;
    RemoteKey remote;
    std::unique_ptr<RegisteredMemory> registered;
  };

  // Whether its key is asked for from here on, and was not before.
  bool Ask(size_t chunk);
  // Whether it is registered now. `needs_key`: only where it is to be written there.
  bool Register(size_t index, bool needs_key);

  const Chunks chunks_;
  const std::shared_ptr<VerbsDomain> domain_;
  const std::shared_ptr<RdmaFigures> figures_;
  const Clock& clock_;
  absl::Mutex mutex_;
  std::vector<Chunk> state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_REACH_H_
