#include "base/thread_class.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "absl/time/time.h"

namespace ferrite {
namespace {

// On top of the process's own.
constexpr int kUrgentNice = -10;
constexpr absl::Duration kUrgentSlice = absl::Microseconds(100);
// The default is at most 2.8 ms.
constexpr absl::Duration kBulkSlice = absl::Milliseconds(3);
constexpr absl::Duration kDefaultSlice = absl::ZeroDuration();

// struct sched_attr of sched_setattr(2), in its first version; the kernel's header does not go together with <sched.h>.
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;  // of an ordinary thread: its time slice
  uint64_t deadline;
  uint64_t period;
};
static_assert(sizeof(SchedulingAttributes) == 48);

// Of the calling thread. Kernels that know no slices of ordinary threads take no notice.
void SetSlice(absl::Duration slice) {
  const SchedulingAttributes attributes{.size = sizeof(attributes),
                                        .policy = SCHED_OTHER,
                                        .flags = 0,
                                        .nice = getpriority(PRIO_PROCESS, 0),
                                        .priority = 0,
                                        .runtime = static_cast<uint64_t>(absl::ToInt64Nanoseconds(slice)),
                                        .deadline = 0,
                                        .period = 0};
  (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

// Of the calling thread: setpriority(2) is about one thread on Linux.
void SetClass(int nice, absl::Duration slice) {
  (void)setpriority(PRIO_PROCESS, 0, nice);
  SetSlice(slice);
}

}  // namespace

int OwnNice() { return getpriority(PRIO_PROCESS, 0); }

void EnterClass(ThreadClass its_class, int nice) {
  switch (its_class) {
    case ThreadClass::kInherited:
      return;
    case ThreadClass::kUrgent:
      return SetClass(nice + kUrgentNice, kUrgentSlice);
    case ThreadClass::kBulk:
      return SetClass(nice, kBulkSlice);
  }
}

Urgency::Urgency() : nice_(OwnNice()) { EnterClass(ThreadClass::kUrgent, nice_); }

Urgency::~Urgency() { SetClass(nice_, kDefaultSlice); }

}  // namespace ferrite
