#include "vmm/app/stop_signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cstring>

#include "vmm/base/status.h"

namespace ferrite {
namespace {

sigset_t Signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    sigaddset(&set, signal);
  }
  return set;
}

}  // namespace

absl::StatusOr<StopSignals> StopSignals::Create() {
  const sigset_t set = Signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) {
    return ErrnoStatus("signalfd");
  }
  return StopSignals(std::move(fd));
}

void StopSignals::LetThrough() {
  const sigset_t set = Signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

std::string StopSignals::Take() {
  signalfd_siginfo info = {};
  const bool taken = read(fd_.get(), &info, sizeof(info)) == sizeof(info);
  LetThrough();
  const char* name = taken ? sigabbrev_np(static_cast<int>(info.ssi_signo)) : nullptr;
  return name != nullptr ? std::string("SIG") + name : "a signal";
}

}  // namespace ferrite
