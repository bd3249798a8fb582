// Who else may write to the memory of a machine that comes: the other side, past this process (rdma/).
#ifndef FERRITE_MIGRATION_CHANNEL_OUTSIDE_WRITERS_H_
#define FERRITE_MIGRATION_CHANNEL_OUTSIDE_WRITERS_H_

#include <cstddef>
#include <cstdint>

namespace ferrite::migration {

// As long as they may write, nobody gives that memory back to the host or puts other pages in the place of those that
// are there: what is written would go to pages that are the guest's no more, and nobody would be told (R8).
//
// Regions have the numbers that they have in the GuestMemory. Threads: any.
class OutsideWriters {
 public:
  virtual ~OutsideWriters() = default;

  // From before the first page comes until End().
  virtual bool may_write() const = 0;
  // Whether something may have been written to that 4 KiB page, also if nobody was told yet. Never for what is written
  // from here on, which is told later.
  virtual bool MayHaveWritten(size_t region, uint64_t page) const = 0;
  // Nobody writes any more when it returns, whatever the other side does, and none of the memory is held. Waits for
  // that. Again, it does nothing.
  virtual void End() = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_OUTSIDE_WRITERS_H_
