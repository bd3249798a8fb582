// The clock that absl::Mutex looks at when several threads wait for one.
#ifndef FERRITE_BASE_LOCK_CLOCK_H_
#define FERRITE_BASE_LOCK_CLOCK_H_

namespace ferrite {

// Has the frequency of that clock measured, which absl does once in a process: asleep for 3 ms and more, with the mutex
// held that is waited for when it comes to that. To be called in time that no guest waits for. Any thread.
void WarmLockClock();

}  // namespace ferrite

#endif  // FERRITE_BASE_LOCK_CLOCK_H_
