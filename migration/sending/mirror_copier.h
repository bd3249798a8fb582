// The operations of a mirror: reading dirty chunks of the source, and writing them to the target.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_COPIER_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_COPIER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/block_io.h"
#include "migration/sending/dirty_chunks.h"
#include "migration/sending/mirror_buffer.h"
#include "migration/sending/mirror_window.h"

namespace ferrite::migration {

// An operation has neighbouring chunks. It reads them into the buffer and writes them: what is zero of it (a cluster, a
// chunk or 64 KiB, whichever is most, or all of it) as zeroes, the pieces one after the other. What the source says is
// a hole is not read. At the target no two operations overlap. Nothing is allocated for one, but the words of an error.
//
// Threads: one, that of both BlockIos. Destroyed while at_io() is 0.
class MirrorCopier {
 public:
  enum class Side { kSource, kTarget };

  // Who is told of ends, in TakeEnds().
  class Owner {
   public:
    virtual ~Owner() = default;
    // The target has `run` as it was when `ticket` was the last one.
    virtual void Copied(const ChunkRun& run, uint64_t ticket) = 0;
    // What `ticket` alone wanted.
    virtual void CopiedAlone(uint64_t ticket) = 0;
    virtual void Flushed() = 0;
    virtual void Succeeded(Side side) = 0;
    // The chunks are dirty again.
    virtual void Failed(Side side, const absl::Status& error) = 0;
    virtual void FlushFailed(const absl::Status& error) = 0;
    // Whether what was read may be written. Else it is dirty again.
    virtual bool goes_on() const = 0;
  };

  struct Shape {
    uint32_t in_flight = 1;
    uint64_t buffer_bytes = 0;
    bool target_is_zero = false;
  };
  // `chunks` has the source's size and the effective granularity; `buffer_bytes` has room for a chunk and for a cluster
  // of `chunks`. `ended` is called on each end, until TakeEnds(). RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<std::unique_ptr<MirrorCopier>> Create(BlockIo& source, BlockIo& target, DirtyChunks& chunks,
                                                              const Shape& shape, std::function<void()> ended);

  struct Started {
    enum class What {
      kNothing,  // there is no dirty chunk, or all of them are in flight
      kNoRoom,   // no operation is free, not enough of the buffer, or enough is in flight
      kRead,
      kZeroes,  // a hole, to be written as zeroes
      kSpared,  // a hole, and the target is zero there
    };
    What what = What::kNothing;
    uint64_t end = 0;         // the chunk behind it
    uint64_t read_bytes = 0;  // of kRead
  };
  struct Wish {
    uint64_t from = 0;  // chunks: what is dirty in [from, end)
    uint64_t end = 0;
    uint64_t most_bytes = 0;   // of data; less than a chunk or a cluster is one
    uint64_t last_ticket = 0;  // the last one so far
    // What is left to others, where there is enough for one operation besides.
    uint32_t spare_operations = 0;
    uint64_t spare_bytes = 0;
    bool is_charged = false;  // what turns out to be zero is found in TakeUncharged()
    bool is_paced = false;    // others use the disks, too: no more of it is in flight than they bear (MirrorWindow)
    // Of what is paced.
    uint64_t guest_writes = 0;  // that there were so far
    MonotonicTime now;
  };
  Started StartDirty(const Wish& wish);
  // `run` was claimed. False without room.
  bool StartAlone(const ChunkRun& run, uint64_t offset, uint64_t bytes, uint64_t ticket);
  // False without room.
  bool StartFlush();
  // Starts what was submitted.
  void Kick();

  // Each end once: where `owner` throws, those behind it are left to the next call.
  void TakeEnds(Owner& owner, MonotonicTime now);
  // Since the last call.
  uint64_t TakeUncharged();
  // The source is looked at anew for what is data.
  void ForgetExtents() { data_end_ = 0; }

  // Operations that have begun and were not taken in.
  uint32_t busy() const { return busy_; }
  // Of these, what a BlockIo still has.
  uint32_t at_io() const { return at_io_; }
  uint64_t most_bytes() const { return most_bytes_; }
  uint64_t buffer_bytes() const { return buffer_.bytes(); }

  struct Totals {
    uint64_t copied = 0;
    uint64_t zero = 0;
    uint64_t again = 0;
  };
  const Totals& totals() const { return totals_; }

 private:
  enum class Step { kFree, kReading, kWriting, kZeroing, kFlushing };
  struct Operation {
    Step step = Step::kFree;
    BlockOperation io;
    ChunkRun run;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    uint64_t at = 0;  // so much of `bytes` is done
    std::span<uint8_t> memory;
    uint64_t ticket = 0;
    bool is_alone = false;  // `ticket` alone
    bool is_charged = false;
    bool is_paced = false;
    MonotonicTime started_at;  // of what is paced
  };
  struct Piece {
    uint64_t bytes = 0;
    bool is_zero = false;
  };

  MirrorCopier(BlockIo& source, BlockIo& target, DirtyChunks& chunks, const Shape& shape, MirrorBuffer buffer,
               uint64_t most_bytes, std::function<void()> ended);

  Operation* FindFree(uint32_t spare);
  void Release(Operation& operation);
  void Submit(BlockIo& io, Operation& operation, Step step, BlockOperation::Kind kind, uint64_t offset, uint64_t bytes,
              uint8_t* data);
  // Where the hole at `offset` ends, else 0.
  uint64_t HoleEnd(uint64_t offset);
  Started StartHole(Operation& operation, const Wish& wish, uint64_t first, uint64_t hole_end);
  void TakeEnd(Operation& operation, Owner& owner, MonotonicTime now);
  Piece NextPiece(const Operation& operation) const;
  // The next piece that has to be written; none is left: it is over.
  void WriteOn(Operation& operation, Owner& owner);

  BlockIo& source_;
  BlockIo& target_;
  DirtyChunks& chunks_;
  const bool target_is_zero_;
  const uint64_t least_bytes_;  // of data: a chunk, or a cluster
  const uint64_t most_bytes_;
  const uint64_t zero_unit_;
  MirrorBuffer buffer_;
  const std::function<void()> ended_;
  std::vector<Operation> operations_;
  std::vector<Operation*> ends_;        // in the order in which they came
  std::vector<Operation*> ends_taken_;  // what is left of them to be told
  uint32_t busy_ = 0;
  uint32_t at_io_ = 0;
  bool to_kick_source_ = false;
  bool to_kick_target_ = false;
  // [data_begin_, data_end_) of the source was data when it was asked. It may be a hole by now, and is read then.
  uint64_t data_begin_ = 0;
  uint64_t data_end_ = 0;
  uint64_t uncharged_ = 0;
  MirrorWindow window_;
  uint64_t paced_bytes_ = 0;  // in flight
  Totals totals_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_COPIER_H_
