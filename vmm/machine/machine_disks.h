// What a mirror needs of a machine's disks.
#ifndef FERRITE_VMM_MACHINE_MACHINE_DISKS_H_
#define FERRITE_VMM_MACHINE_MACHINE_DISKS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "devices/block/disk_image.h"
#include "devices/block/write_witness.h"

namespace ferrite {

// What the operations of the machine mean for a witness:
//   pause, save, move   what is held is answered first, and tickets are dropped until the disk stands still; what the
//                       guest wrote is told all the same. Then nothing is written until it runs again, and it is the
//                       same witness. While the disks are released (Machine::moving()) another monitor may write to
//                       them, of which nobody tells here.
//   reset               the same; tickets of before are nothing afterwards. The disk keeps its image, also one that
//                       replaced another.
//   stop                the same; it is told nothing more.
//
// Threads: any but a vCPU's or the device loop's. WithImage() and AtStandstill() take turns with each other and with
// the operations of Machine, which wait as long as they last; so neither is called in what they call. The others wait
// for none, and may be called there.
class MachineDisks {
 public:
  virtual ~MachineDisks() = default;

  struct Disk {
    std::string id;
    std::string path;
    bool read_only = false;
    uint64_t bytes = 0;
  };
  // As the configuration has them, in its order.
  virtual std::vector<Disk> List() const = 0;

  // OK when there is a disk `id`; else NOT_FOUND, with the ids that there are.
  virtual absl::Status CheckDisk(absl::string_view id) const = 0;

  // Calls `use` with the image of disk `id`, which is held, while no other call changes which one that is; `use` may
  // keep a duplicate of its descriptor, which shares the lock (ReleaseDisks() gives that up all the same). NOT_FOUND as
  // CheckDisk(); FAILED_PRECONDITION while the disks are released.
  virtual absl::Status WithImage(absl::string_view id,
                                 const std::function<absl::Status(const DiskImage& image)>& use) = 0;

  // From here on every write to disk `id` that is not over yet is told to `witness`, which outlives that; null ends it,
  // and answers what was held. ALREADY_EXISTS when there is another one. In any state, also when stopped. Called
  // without a lock that WriteWitness::Wrote() takes, as AnswerHeld().
  virtual absl::Status SetWitness(absl::string_view id, WriteWitness* witness) = 0;
  // A write that the witness gave this ticket to is answered. One that the device does not know (it was reset) is
  // nothing. Never waits for the device's loop.
  virtual void AnswerHeld(absl::string_view id, uint64_t ticket) = 0;

  // Runs `work` while nothing of disk `id` is in flight or taken from its queue: the guest's requests wait there. The
  // rest of the machine goes on; a machine that is paused or was never run stays so. Held answers are let go before
  // (the witness is asked no more). `work` may take long, but a guest waits for its disk, and whoever wants to pause or
  // stop the machine waits. Returns what `work` did. FAILED_PRECONDITION when the machine has stopped or the disks are
  // released.
  virtual absl::Status AtStandstill(absl::string_view id, const std::function<absl::Status()>& work) = 0;

  // Within AtStandstill() of the same disk: it goes on with `image`, of the same size and held, as a new path in all
  // that the machine says of itself and also after a reset. The old one is returned, still held. On an error the old
  // one stays and `image` is closed: FAILED_PRECONDITION when the disk does not stand still, or for an image of another
  // size, that is released, or that is read-only where the disk is not (or the other way round).
  virtual absl::StatusOr<std::unique_ptr<DiskImage>> ReplaceImage(absl::string_view id,
                                                                  std::unique_ptr<DiskImage> image) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_DISKS_H_
