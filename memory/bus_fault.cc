#include "memory/bus_fault.h"

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

bool IsFault(const siginfo_t& info) { return info.si_code == BUS_MCEERR_AR || info.si_code == BUS_ADRERR; }

void OnBusFault(int signal, siginfo_t* info, void* /*context*/) {
  // A hint that a page went that nobody has touched: it is found when somebody does.
  if (info->si_code == BUS_MCEERR_AO) {
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
    // Not blocked in the handler: it is left by a jump that restores no mask.
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

}  // namespace ferrite
