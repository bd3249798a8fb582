#include "vmm/app/stop_signals.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

// For the handler. Written before it is installed.
std::atomic<int> wake_fd{-1};
std::atomic<int> first_signal{0};

sigset_t Set() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) {
    sigaddset(&set, signal);
  }
  return set;
}

// Signals that are ours have it again; those that are ignored stay so. Async-signal-safe.
void GiveOrdinaryEffect(void (*ours)(int)) {
  for (const int signal : kSignals) {
    struct sigaction action = {};
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler == ours) {
      action = {};
      action.sa_handler = SIG_DFL;
      (void)sigaction(signal, &action, nullptr);
    }
  }
}

void OnSignal(int signal) {
  const int error = errno;
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
  GiveOrdinaryEffect(OnSignal);
  const uint64_t one = 1;
  (void)!write(wake_fd, &one, sizeof(one));
  errno = error;
}

}  // namespace

absl::StatusOr<StopSignals> StopSignals::Create() {
  FERRITE_ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  FERRITE_CHECK(wake_fd.exchange(wake.fd()) < 0);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  // One at a time: the second must find what the first has left.
  action.sa_mask = Set();
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals) {
    struct sigaction before = {};
    if (sigaction(signal, nullptr, &before) != 0 || before.sa_handler == SIG_IGN) {
      continue;
    }
    FERRITE_CHECK(sigaction(signal, &action, nullptr) == 0);
  }
  // Whoever started us may have blocked them.
  const sigset_t set = Set();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  return StopSignals(std::move(wake));
}

// The end of the program: one that comes now is too late to be told to anybody.
StopSignals::~StopSignals() {
  if (wake_.fd() >= 0) {
    wake_fd = -1;
  }
}

void StopSignals::LetThrough() { GiveOrdinaryEffect(OnSignal); }

std::string StopSignals::Take() {
  (void)wake_.Drain();
  const int signal = first_signal;
  const char* name = signal != 0 ? sigabbrev_np(signal) : nullptr;
  return name != nullptr ? std::string("SIG") + name : "a signal";
}

}  // namespace ferrite
