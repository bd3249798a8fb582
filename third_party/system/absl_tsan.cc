// Debian's absl is not built with the thread sanitizer, which therefore does not see that absl::Mutex orders anything.
// Linked in under --config=tsan, where the linker (--wrap, in BUILD.bazel) sends the calls of these functions here.
// A function that is missing here makes false reports. What is read in a condition of Await() is not checked.

#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

extern "C" {

void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);

// Names as the compiler makes them; debian3 is the inline namespace of Debian's absl.
#define MUTEX(name) _ZN4absl7debian35Mutex##name
#define NOTIFICATION(name) _ZN4absl7debian312Notification##name
#define NOTIFICATION_CONST(name) _ZNK4absl7debian312Notification##name
#define REAL_OF(symbol) __real_##symbol
#define WRAP_OF(symbol) __wrap_##symbol
#define REAL(symbol) REAL_OF(symbol)
#define WRAP(symbol) WRAP_OF(symbol)

#define LOCK MUTEX(4LockEv)
#define TRY_LOCK MUTEX(7TryLockEv)
#define UNLOCK MUTEX(6UnlockEv)
#define AWAIT MUTEX(5AwaitERKNS0_9ConditionE)
#define AWAIT_TIMEOUT MUTEX(16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)
#define AWAIT_DEADLINE MUTEX(17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)
#define NOTIFY NOTIFICATION(6NotifyEv)
#define WAIT NOTIFICATION_CONST(19WaitForNotificationEv)
#define WAIT_TIMEOUT NOTIFICATION_CONST(30WaitForNotificationWithTimeoutENS0_8DurationE)

void REAL(LOCK)(absl::Mutex* mutex);
bool REAL(TRY_LOCK)(absl::Mutex* mutex);
void REAL(UNLOCK)(absl::Mutex* mutex);
void REAL(AWAIT)(absl::Mutex* mutex, const absl::Condition& condition);
bool REAL(AWAIT_TIMEOUT)(absl::Mutex* mutex, const absl::Condition& condition, absl::Duration timeout);
bool REAL(AWAIT_DEADLINE)(absl::Mutex* mutex, const absl::Condition& condition, absl::Time deadline);
void REAL(NOTIFY)(absl::Notification* notification);
void REAL(WAIT)(const absl::Notification* notification);
bool REAL(WAIT_TIMEOUT)(const absl::Notification* notification, absl::Duration timeout);

// absl keeps a graph of who locks what after what; the memmove(3) in it is seen, the lock around it is not.
void WRAP(LOCK)(absl::Mutex* mutex) {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  REAL(LOCK)(mutex);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}

bool WRAP(TRY_LOCK)(absl::Mutex* mutex) {
  const bool taken = REAL(TRY_LOCK)(mutex);
  if (taken) {
    __tsan_acquire(mutex);
  }
  return taken;
}

// Who gives a mutex up looks at the conditions that others wait for. It still holds the mutex then, but the sanitizer
// has been told otherwise, so these reads are not to count.
void WRAP(UNLOCK)(absl::Mutex* mutex) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  REAL(UNLOCK)(mutex);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

void WRAP(AWAIT)(absl::Mutex* mutex, const absl::Condition& condition) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  REAL(AWAIT)(mutex, condition);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}

bool WRAP(AWAIT_TIMEOUT)(absl::Mutex* mutex, const absl::Condition& condition, absl::Duration timeout) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met = REAL(AWAIT_TIMEOUT)(mutex, condition, timeout);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return met;
}

bool WRAP(AWAIT_DEADLINE)(absl::Mutex* mutex, const absl::Condition& condition, absl::Time deadline) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met = REAL(AWAIT_DEADLINE)(mutex, condition, deadline);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return met;
}

void WRAP(NOTIFY)(absl::Notification* notification) {
  __tsan_release(notification);
  REAL(NOTIFY)(notification);
}

void WRAP(WAIT)(const absl::Notification* notification) {
  REAL(WAIT)(notification);
  __tsan_acquire(const_cast<absl::Notification*>(notification));
}

bool WRAP(WAIT_TIMEOUT)(const absl::Notification* notification, absl::Duration timeout) {
  const bool notified = REAL(WAIT_TIMEOUT)(notification, timeout);
  if (notified) {
    __tsan_acquire(const_cast<absl::Notification*>(notification));
  }
  return notified;
}

// The table of errno's texts: a static variable of Debian's absl, whose guard is not seen either. The graph, where
// absl's own code locks: in a wait for a notification.
const char* __tsan_default_suppressions() {
  return "race:absl::debian3::base_internal::StrError\n"
         "race:absl::debian3::synchronization_internal::GraphCycles\n";
}

}  // extern "C"
