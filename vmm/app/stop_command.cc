#include "vmm/app/stop_command.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "vmm/app/commands.h"
#include "vmm/control/handed_over.h"
#include "vmm/control/machine_directory.h"
#include "vmm/control/run_base.h"

namespace ferrite {
namespace {

class StopCommand final : public CommandWith<StopCommandOptions> {
 public:
  StopCommand()
      : CommandWith({"stop", "End a machine at once, as if its power was cut, and wait until its monitor has ended",
                     "ferrite stop web1"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddTimeout(app, options_.machine);
    app.add_flag("--force", options_.force,
                 "Also when it was handed over and the destination may still need its memory");
  }

  absl::Status Finish() override { return CheckMachineName(options_.machine.name); }

  int Run(int64_t /*started_ns*/) override {
    // There may be no monitor left to ask. One that lives is asked without the base's lock.
    const auto base = RunBase(options_.machine.run_dir);
    if (options_.force && base.ok() && HandedOver(*base, options_.machine.name).has_value()) {
      const absl::Status status = ForgetHandedOver(*base, options_.machine.name);
      return status.ok() ? kExitOk : Fail(status, kExitFailure);
    }
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      const auto machine = client.Describe();
      if (!machine.ok()) {
        return Fail(machine.status());
      }
      // A descriptor of the process: its number may be another's by the time that we look. (glibc 2.36 declares no
      // pidfd_open() to C++ without side effects, so the system call.)
      const Fd monitor(static_cast<int>(syscall(SYS_pidfd_open, machine->pid, 0)));
      const absl::Status status = client.Stop(options_.force);
      if (!status.ok() && status.code() != absl::StatusCode::kUnavailable) {
        return Fail(status);
      }
      pollfd polled = {monitor.get(), POLLIN, 0};
      // A monitor in another pid namespace has no descriptor here.
      const bool ended =
          monitor.valid() ? poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(options_.machine.timeout))) != 0
                          : client.AwaitEnd().ok();
      if (ended) {
        return kExitOk;
      }
      if (!status.ok()) {
        return Fail(status);  // nobody can say whether it was asked
      }
      const std::string pid = machine->pid > 0 ? absl::StrCat(" (pid ", machine->pid, ")") : "";
      return Fail(
          absl::DeadlineExceededError(absl::StrCat("machine ", options_.machine.name, " is stopped, but its monitor",
                                                   pid, " has not ended yet; kill it if it must go")));
    });
  }
};

}  // namespace

std::unique_ptr<Command> MakeStopCommand() { return std::make_unique<StopCommand>(); }

}  // namespace ferrite
