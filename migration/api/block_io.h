// Blocks, by what is done to them: a disk that is copied, and what it is copied to.
#ifndef FERRITE_MIGRATION_API_BLOCK_IO_H_
#define FERRITE_MIGRATION_API_BLOCK_IO_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite::migration {

// One operation. Who submits it (BlockIo) owns it and the memory at `data`, and leaves both alone until `done` is
// called; then it may be filled in anew and submitted again.
struct BlockOperation {
  enum class Kind {
    kRead,
    kWrite,
    kWriteZeroes,  // reads as zero afterwards; a hole will do
    kDiscard,      // the contents are not needed any more, and are anything from here on
    kFlush,        // what was done before it was submitted survives a loss of power
  };

  Kind kind = Kind::kRead;
  uint64_t offset = 0;      // in bytes, as `bytes` a multiple of BlockIo::block_bytes()
  uint64_t bytes = 0;       // not 0, but for kFlush
  uint8_t* data = nullptr;  // of kRead and kWrite: `bytes` of them
  // The outcome. RESOURCE_EXHAUSTED: there is no room (ENOSPC, EDQUOT). UNAVAILABLE: it is
  // gone for good, as a server that was lost. Names the object, the operation and the errno's
  // text.
  absl::Status result;
  // Called once it is over, on the thread of the BlockIo, with nothing of the submitter's on the stack. May submit
  // more.
  std::function<void(BlockOperation&)> done;
};

// A disk, an image file, an export of a server, one end of a channel. Operations that are in flight together are not
// ordered, and end in any order.
//
// Threads: all calls, and `done`, are on one thread, which whoever makes it says. The destructor runs while nothing is
// in flight.
class BlockIo {
 public:
  virtual ~BlockIo() = default;

  // For messages: a path, a URI.
  virtual absl::string_view name() const = 0;
  virtual uint64_t bytes() const = 0;
  // What every offset and length is a multiple of; a power of two, 64 MiB at most. bytes() is a multiple of it.
  virtual uint32_t block_bytes() const = 0;
  // What it allocates at once: a power of two, at least block_bytes(), 64 MiB at most. A first write into such a unit
  // that has not all of it may cost it a read.
  virtual uint32_t cluster_bytes() const = 0;

  // Takes `operation`, and does not wait for it. Errors come as its result.
  virtual void Submit(BlockOperation& operation) = 0;
  // Starts all that was submitted. Does not wait.
  virtual void Kick() = 0;

  struct Extent {
    uint64_t bytes = 0;  // how far it goes, not 0
    bool data = true;    // else it reads as zero
  };
  // What is at `offset`, which is below bytes(). One that cannot tell says that all of the rest is data. Waits for no
  // peer.
  virtual absl::StatusOr<Extent> NextExtent(uint64_t offset) = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_BLOCK_IO_H_
