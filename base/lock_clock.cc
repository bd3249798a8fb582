#include "base/lock_clock.h"

#include "absl/base/internal/cycleclock.h"

namespace ferrite {

void WarmLockClock() {
  // Of all that absl offers, this alone does it without a thread that waits for another.
  (void)absl::base_internal::CycleClock::Frequency();
}

}  // namespace ferrite
