// The mirrors of one machine's disks.
#ifndef FERRITE_VMM_MIRROR_MIRRORS_H_
#define FERRITE_VMM_MIRROR_MIRRORS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "vmm/control/mirror_port.h"
#include "vmm/machine/machine_disks.h"
#include "vmm/mirror/mirror_job.h"

namespace ferrite {

// One at a time for a disk; those of several disks go on beside one another.
//
// Threads: any.
class Mirrors final : public MirrorPort {
 public:
  // `disks` outlives it. `listener` as MirrorJob::Listener, for all of them, and so on several threads.
  Mirrors(MachineDisks& disks, MirrorJob::Listener listener);
  // Ends what is on.
  ~Mirrors() override;

  absl::StatusOr<uint64_t> Start(const MirrorRequest& request) override;
  std::vector<MirrorStatus> List() const override;
  absl::StatusOr<MirrorStatus> Status(absl::string_view disk) const override;
  void Complete(absl::string_view disk, Done done) override;
  void Cancel(absl::string_view disk, bool keep_copy, Done done) override;
  void Pause(absl::string_view disk, Done done) override;
  void Resume(absl::string_view disk, Done done) override;
  void SetMaxBandwidth(absl::string_view disk, uint64_t bytes_per_second, Done done) override;
  absl::Status AllowsMove() const override;
  void BeginEnd() override;
  // Whether all are over by then.
  bool AwaitOver(absl::Duration limit);

 private:
  // The disk's last one; null when there was none. NOT_FOUND for the disk.
  absl::StatusOr<std::shared_ptr<MirrorJob>> Find(absl::string_view disk) const;
  // That one; FAILED_PRECONDITION when there was none. Null with `done` told.
  std::shared_ptr<MirrorJob> LastOf(absl::string_view disk, const Done& done) const;
  absl::Status CheckDisk(absl::string_view disk) const;

  MachineDisks& disks_;
  const MirrorJob::Listener listener_;

  absl::Mutex start_mutex_;  // one begins at a time

  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(start_mutex_);
  std::vector<std::shared_ptr<MirrorJob>> last_ ABSL_GUARDED_BY(mutex_);  // a disk's last one, by their numbers
  uint64_t number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_MIRRORS_H_
