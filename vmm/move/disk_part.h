// A disk of the machine as the source of a move has it: it is mirrored to the destination.
#ifndef FERRITE_VMM_MOVE_DISK_PART_H_
#define FERRITE_VMM_MOVE_DISK_PART_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "devices/block/write_witness.h"
#include "memory/page_bitmap.h"
#include "migration/api/machine_spec.h"
#include "migration/sending/outgoing_part.h"
#include "vmm/machine/machine_disks.h"

namespace ferrite {

// The region that a disk of `bytes` is in a move: whole units of this many bytes, of which the last one reads as zero
// behind the disk's end. A write is followed by pages of 4 KiB all the same; by unit it is known what has arrived.
inline constexpr uint64_t kDiskUnitBytes = 64 << 10;
migration::MachineSpec::Region DiskRegion(const std::string& id, uint64_t bytes);

// The image is read through an open of its own, which the machine's lock on it covers while the disk is the machine's.
// While the part is blocking, a write waits for the second round of pages to arrive that was begun after it at most.
//
// Threads: as OutgoingPart and WriteWitness say.
class DiskPart final : public migration::OutgoingPart, private WriteWitness {
 public:
  // Writes whose answers wait, at most; more are answered at once, and are followed all the same.
  static constexpr size_t kMostHeld = 1024;

  // `disks` and `clock`, the move's (migration::Host), outlive it.
  DiskPart(MachineDisks& disks, const MachineDisks::Disk& disk, const Clock& clock = RealClock());
  ~DiskPart() override { StopTracking(); }

  const std::string& id() const { return id_; }
  // All that the guest wrote is on the disk here, too: what is left here is left for good. May take long.
  absl::Status WriteOut();

  absl::string_view name() const override { return name_; }
  std::vector<migration::MachineSpec::Region> regions() const override;
  bool mirrored() const override { return !declined_; }
  void Decline() override { declined_ = true; }
  absl::Status StartTracking() override;
  void StopTracking() override;
  absl::Status CollectDirty(size_t region, PageBitmap& dirty) override;
  absl::Status AddSkipped(size_t region, PageBitmap& skipped) override;
  bool SetBlocking(bool on) override;
  void Delivered() override;
  MonotonicTime LetGo(MonotonicTime since) override;
  absl::Status Send(migration::PageSender& sender, size_t region, const PageRange& run,
                    uint64_t pages_per_unit) override;

 private:
  struct Held {
    uint64_t ticket = 0;
    MonotonicTime since;
  };

  uint64_t Wrote(uint64_t offset, uint64_t bytes) override;
  // All that are held up to this one.
  void AnswerUpTo(uint64_t ticket);
  absl::Status Read(uint64_t first_page, std::span<uint8_t> into) const;

  MachineDisks& disks_;
  const Clock& clock_;
  const std::string id_;
  const std::string name_;  // "disk root"
  const uint64_t bytes_;
  const bool read_only_;
  bool declined_ = false;
  bool tracking_ = false;
  std::string path_;  // for messages
  Fd image_;

  absl::Mutex mutex_;
  // By pages of 4 KiB. With the tickets, so that it is known which were collected with it.
  std::optional<PageBitmap> dirty_ ABSL_GUARDED_BY(mutex_);  // from StartTracking() on
  bool blocking_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t collected_ticket_ ABSL_GUARDED_BY(mutex_) = 0;  // up to which they are collected
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);         // in the order of tickets and time
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_DISK_PART_H_
