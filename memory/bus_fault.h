// SIGBUS of memory that the host lost (hwpoison, UFFDIO_POISON): who touched it, and how that thread goes on.
//
// The handler is the process's. It takes a fault of a thread that is prepared for one; any other has the action that
// SIGBUS had before. Signals: sigaction(2), "The siginfo_t argument"; BUS_MCEERR_AR, or BUS_ADRERR on kernels without
// CONFIG_MEMORY_FAILURE.
#ifndef FERRITE_MEMORY_BUS_FAULT_H_
#define FERRITE_MEMORY_BUS_FAULT_H_

#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace ferrite {

// Installs the handler, once. It allocates nothing.
void CatchBusFaults();

// Runs `touch`, which loads and stores and does nothing else: no destructor of it runs when it hits a lost page.
// Returns the address that was hit, after which the rest of `touch` is not done.
std::optional<uintptr_t> TouchMemory(absl::FunctionRef<void()> touch);

// Before an atomic access in TouchMemory(). Under the thread sanitizer such an access holds a lock of the sanitizer's,
// which a jump out of it would leave held: so the page is touched before, unseen.
#ifdef __SANITIZE_THREAD__
__attribute__((no_sanitize("thread"), noinline)) inline void TouchBeforeAtomic(const void* address) {
  (void)*static_cast<const volatile uint8_t*>(address);
}
#else
inline void TouchBeforeAtomic(const void* /*address*/) {}
#endif

// While one lives, this thread is in KVM_RUN: a fault is noted, and the system call comes back with EINTR.
class GuestRunFaults {
 public:
  GuestRunFaults();
  ~GuestRunFaults();
  GuestRunFaults(const GuestRunFaults&) = delete;
  GuestRunFaults& operator=(const GuestRunFaults&) = delete;

  // The address of the fault since the last call, in the memory slot's mapping.
  static std::optional<uintptr_t> Take();
};

// Has the kernel tell of lost pages before somebody touches them, by a signal to the calling thread or one that it
// makes (BUS_MCEERR_AO; prctl(2), PR_MCE_KILL). A hint only: the signals for several pages come as one. Returns an
// eventfd that is readable when there is something to take; all that are returned count as one.
absl::StatusOr<Fd> ListenForLostPages();

// An address in a page that is said to be lost; nothing when all have been taken. Read the eventfd first. Any thread.
std::optional<uintptr_t> TakeLostPageHint();

}  // namespace ferrite

#endif  // FERRITE_MEMORY_BUS_FAULT_H_
