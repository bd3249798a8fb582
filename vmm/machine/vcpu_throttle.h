// Slows vCPUs down, so that a guest dirties memory more slowly than a move sends it.
#ifndef FERRITE_VMM_MACHINE_VCPU_THROTTLE_H_
#define FERRITE_VMM_MACHINE_VCPU_THROTTLE_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "vmm/machine/vcpu_thread.h"

namespace ferrite {

// Bars all vCPUs from the guest for the same part of each slice of 10 ms: vCPUs that wait for each other lose no more
// time than one that does not. While it works it has a thread, "vcpu-throttle".
//
// Threads: Set() is called by one thread at a time.
class VcpuThrottle {
 public:
  // The vCPUs outlive the throttle.
  explicit VcpuThrottle(std::vector<VcpuThread*> vcpus) : vcpus_(std::move(vcpus)) {}
  ~VcpuThrottle() { (void)Set(0); }

  // `percent` of the time that vCPUs stand still, 0 to 99. Fails, and changes nothing, where it needs its thread and
  // cannot have it.
  absl::Status Set(int percent);

 private:
  void Loop();
  // Waits for `duration`, or less when the percentage changes.
  void Pass(absl::Duration duration);

  const std::vector<VcpuThread*> vcpus_;
  TimedMutex mutex_;
  int percent_ ABSL_GUARDED_BY(mutex_) = 0;
  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_VCPU_THROTTLE_H_
