#include "vmm/machine/vcpu_throttle.h"

#include <utility>

#include "absl/time/time.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(10);

}  // namespace

absl::Status VcpuThrottle::Set(int percent) {
  FERRITE_CHECK(percent >= 0 && percent < 100);
  int before = 0;
  {
    TimedMutexLock lock(&mutex_);
    before = percent_;
    percent_ = percent;
  }
  if (before == 0 && percent > 0) {
    absl::StatusOr<Thread> thread = Thread::Start("vcpu-throttle", [this] { Loop(); });
    if (!thread.ok()) {
      TimedMutexLock lock(&mutex_);
      percent_ = 0;
      return thread.status();
    }
    thread_ = *std::move(thread);
  } else if (percent == 0) {
    thread_.Join();
  }
  return absl::OkStatus();
}

void VcpuThrottle::Loop() {
  for (;;) {
    absl::Duration still;
    {
      TimedMutexLock lock(&mutex_);
      still = kSlice * percent_ / 100;
    }
    if (still == absl::ZeroDuration()) {
      return;
    }
    for (VcpuThread* vcpu : vcpus_) {
      vcpu->SetBarred(true);
    }
    Pass(still);
    for (VcpuThread* vcpu : vcpus_) {
      vcpu->SetBarred(false);
    }
    Pass(kSlice - still);
  }
}

void VcpuThrottle::Pass(absl::Duration duration) {
  TimedMutexLock lock(&mutex_);
  const auto changed = [this, before = percent_]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return percent_ != before; };
  mutex_.AwaitFor(absl::Condition(&changed), duration);
}

}  // namespace ferrite
