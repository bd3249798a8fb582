#include "memory/bus_fault.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>

#include "base/status.h"

namespace ferrite {
namespace {

struct Prepared {
  sigjmp_buf* jump = nullptr;
  volatile sig_atomic_t in_guest = 0;
  volatile sig_atomic_t hit = 0;
  volatile uintptr_t address = 0;
};
// In the executable, so that the handler finds it without an allocation.
thread_local constinit Prepared prepared;

struct sigaction before;

// What was said to be lost and has not been taken. One for which there is no room is found when it is touched.
std::array<std::atomic<uintptr_t>, 16> hints;
std::atomic<int> hints_there = -1;  // an eventfd

void AddHint(uintptr_t address) {
  for (std::atomic<uintptr_t>& slot : hints) {
    uintptr_t none = 0;
    if (slot.compare_exchange_strong(none, address)) {
      break;
    }
  }
  if (const int fd = hints_there.load(); fd >= 0) {
    const int error = errno;
    (void)eventfd_write(fd, 1);
    errno = error;
  }
}

bool IsFault(const siginfo_t& info) { return info.si_code == BUS_MCEERR_AR || info.si_code == BUS_ADRERR; }

void OnBusFault(int signal, siginfo_t* info, void* context) {
  if (info->si_code == BUS_MCEERR_AO) {
    AddHint(reinterpret_cast<uintptr_t>(info->si_addr));
    return;
  }
  if (IsFault(*info)) {
    if (prepared.in_guest != 0) {
      prepared.address = reinterpret_cast<uintptr_t>(info->si_addr);
      prepared.hit = 1;
      return;
    }
    if (prepared.jump != nullptr) {
      prepared.address = reinterpret_cast<uintptr_t>(info->si_addr);
      // As a return would do it: what is blocked here (a sanitizer blocks all) would stay so.
      (void)pthread_sigmask(SIG_SETMASK, &static_cast<const ucontext_t*>(context)->uc_sigmask, nullptr);
      siglongjmp(*prepared.jump, 1);
    }
  }
  // The instruction is done again, and ends as it would have without this handler; a signal that somebody sent is sent
  // again.
  (void)sigaction(signal, &before, nullptr);
  if (!IsFault(*info)) {
    (void)raise(signal);
  }
}

}  // namespace

void CatchBusFaults() {
  static const bool kInstalled = [] {
    struct sigaction action = {};
    action.sa_sigaction = OnBusFault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    FERRITE_CHECK(sigaction(SIGBUS, &action, &before) == 0);
    return true;
  }();
  (void)kInstalled;
}

std::optional<uintptr_t> TouchMemory(absl::FunctionRef<void()> touch) {
  sigjmp_buf here;
  sigjmp_buf* const outer = prepared.jump;
  if (sigsetjmp(here, 0) != 0) {
    prepared.jump = outer;
    return prepared.address;
  }
  prepared.jump = &here;
  touch();
  prepared.jump = outer;
  return std::nullopt;
}

GuestRunFaults::GuestRunFaults() { prepared.in_guest = 1; }

GuestRunFaults::~GuestRunFaults() { prepared.in_guest = 0; }

std::optional<uintptr_t> GuestRunFaults::Take() {
  if (prepared.hit == 0) {
    return std::nullopt;
  }
  prepared.hit = 0;
  return prepared.address;
}

absl::StatusOr<Fd> ListenForLostPages() {
  CatchBusFaults();
  // Never closed: a handler may be writing to it.
  int there = hints_there.load();
  if (there < 0) {
    Fd made(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!made.valid()) {
      return ErrnoStatus("eventfd, for lost pages");
    }
    if (hints_there.compare_exchange_strong(there, made.get())) {
      there = made.Release();
    }
  }
  Fd own(fcntl(there, F_DUPFD_CLOEXEC, 0));
  if (!own.valid()) {
    return ErrnoStatus("fcntl(F_DUPFD_CLOEXEC) of the eventfd for lost pages");
  }
  // Without it pages are found when they are touched.
  (void)prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
  return own;
}

std::optional<uintptr_t> TakeLostPageHint() {
  for (std::atomic<uintptr_t>& slot : hints) {
    if (const uintptr_t address = slot.exchange(0); address != 0) {
      return address;
    }
  }
  return std::nullopt;
}

}  // namespace ferrite
