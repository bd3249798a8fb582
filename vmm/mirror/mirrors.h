// The mirrors of one machine's disks.
#ifndef FERRITE_VMM_MIRROR_MIRRORS_H_
#define FERRITE_VMM_MIRROR_MIRRORS_H_

#include <cstdint>
#include <functional>
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

  void Start(const MirrorRequest& request, Started started) override;
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
  using Jobs = std::vector<std::shared_ptr<MirrorJob>>;

  // Has one begin that may, and calls `begun` with it.
  absl::Status Open(const MirrorRequest& request, std::function<void(MirrorJob&, const absl::Status&)> begun);
  // On the thread of `job`: whether it began.
  void Note(MirrorJob& job, const absl::Status& begun);
  // The disk's last one of `among`; null when there is none.
  static std::shared_ptr<MirrorJob> FindIn(const Jobs& among, absl::string_view disk);
  // The disk's that is being opened, or else its last one. Null with `done` told: NOT_FOUND for the disk,
  // FAILED_PRECONDITION when there was none.
  std::shared_ptr<MirrorJob> LastOf(absl::string_view disk, const Done& done) const;
  // All that may be on.
  Jobs All() const;

  MachineDisks& disks_;
  const MirrorJob::Listener listener_;

  mutable absl::Mutex mutex_;
  Jobs opening_ ABSL_GUARDED_BY(mutex_);  // did not begin yet
  Jobs last_ ABSL_GUARDED_BY(mutex_);     // a disk's last one, by their numbers
  // Did not begin. They end by themselves, but nobody waits for that on their own thread.
  Jobs refused_ ABSL_GUARDED_BY(mutex_);
  uint64_t number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_MIRRORS_H_
