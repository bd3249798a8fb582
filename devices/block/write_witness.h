// Who is told of what the guest writes to a disk.
#ifndef FERRITE_DEVICES_BLOCK_WRITE_WITNESS_H_
#define FERRITE_DEVICES_BLOCK_WRITE_WITNESS_H_

#include <cstdint>

namespace ferrite {

class WriteWitness {
 public:
  virtual ~WriteWitness() = default;

  // A write, discard or write-zeroes of [offset, offset + bytes), in bytes of the image, was done, or failed and may
  // have been done in part, and the guest was not told yet. Returns 0 to have it answered now; else a ticket, and the
  // answer waits for Block::AnswerHeld(ticket). Called with the device's mutex held: throws nothing, waits for nothing,
  // calls nothing of the device.
  virtual uint64_t Wrote(uint64_t offset, uint64_t bytes) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_WRITE_WITNESS_H_
