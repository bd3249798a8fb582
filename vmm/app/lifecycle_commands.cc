// pause, resume, reset, stop.
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "vmm/app/commands.h"

namespace ferrite {
namespace {

int Do(const CommandLine& line, absl::Status (ControlClient::*operation)()) {
  return WithMachine(line, [&](ControlClient& client) {
    const absl::Status status = (client.*operation)();
    return status.ok() ? kExitOk : Fail(status);
  });
}

}  // namespace

int PauseCommand(const CommandLine& line) { return Do(line, &ControlClient::Pause); }
int ResumeCommand(const CommandLine& line) { return Do(line, &ControlClient::Resume); }
int ResetCommand(const CommandLine& line) { return Do(line, &ControlClient::Reset); }

int StopCommand(const CommandLine& line) {
  // There may be no monitor left to ask. One that lives is asked without the base's lock.
  const auto base = RunBase(line.run_dir);
  if (line.force && base.ok() && HandedOver(*base, line.name).has_value()) {
    const absl::Status status = ForgetHandedOver(*base, line.name);
    return status.ok() ? kExitOk : Fail(status, kExitFailure);
  }
  return WithMachine(line, [&](ControlClient& client) -> int {
    const auto machine = client.Describe();
    if (!machine.ok()) {
      return Fail(machine.status());
    }
    // A descriptor of the process: its number may be another's by the time that we look. (glibc 2.36 declares no
    // pidfd_open() to C++ without side effects, so the system call.)
    const Fd monitor(static_cast<int>(syscall(SYS_pidfd_open, machine->pid, 0)));
    const absl::Status status = client.Stop(line.force);
    if (!status.ok() && status.code() != absl::StatusCode::kUnavailable) {
      return Fail(status);
    }
    pollfd polled = {monitor.get(), POLLIN, 0};
    // It has none in another pid namespace.
    const bool ended = monitor.valid()
                           ? poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(line.timeout))) != 0
                           : client.AwaitEnd().ok();
    if (ended) {
      return kExitOk;
    }
    if (!status.ok()) {
      return Fail(status);  // nobody can say whether it was asked
    }
    const std::string pid = machine->pid > 0 ? absl::StrCat(" (pid ", machine->pid, ")") : "";
    return Fail(absl::DeadlineExceededError(absl::StrCat("machine ", line.name, " is stopped, but its monitor", pid,
                                                         " has not ended yet; kill it if it must go")));
  });
}

}  // namespace ferrite
