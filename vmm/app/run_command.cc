// run
#include <fmt/format.h>

#include <functional>
#include <memory>
#include <string>

#include "base/clean_text.h"
#include "base/status.h"
#include "vmm/app/commands.h"
#include "vmm/app/detach.h"
#include "vmm/app/hiding.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/monitor.h"
#include "vmm/machine/machine.h"

namespace ferrite {
namespace {

absl::StatusOr<StopInfo> RunMachine(const CommandLine& line, const std::function<void()>& ready) {
  const MachineConfig& config = line.run.config;
  FERRITE_RETURN_IF_ERROR(CheckFiles(config));
  FERRITE_ASSIGN_OR_RETURN(const auto monitor, Monitor::Create(line.run, line.run_dir));
  for (const DiskConfig& disk : config.disks) {
    WarnOfOthersDisk(disk.path, disk.read_only);
  }
  FERRITE_ASSIGN_OR_RETURN(auto owned, Machine::Create(config, monitor->kvm(), monitor->loop(), &monitor->console()));
  Machine& machine = *owned;
  machine.SetListener(monitor->Listener());
  monitor->SetMachine(std::move(owned));
  FERRITE_RETURN_IF_ERROR(monitor->GoOn());
  FERRITE_RETURN_IF_ERROR(machine.Boot());
  FERRITE_RETURN_IF_ERROR(monitor->GoOn());
  FERRITE_RETURN_IF_ERROR(monitor->Serve());
  const absl::Status resumed = machine.Resume();
  if (resumed.ok()) {
    ready();
    monitor->WaitForEnd();
  }
  StopInfo info = monitor->Stop();
  if (line.run.detach && (info.reason == StopReason::kGuestFault || info.reason == StopReason::kError)) {
    // Nobody reads what is printed; the log holds the same.
    monitor->KeepLog();
  }
  FERRITE_RETURN_IF_ERROR(resumed);
  return info;
}

}  // namespace

int ReportEnd(const std::string& name, const StopInfo& info) {
  switch (info.reason) {
    case StopReason::kGuestFault:
      fmt::print(stderr, "ferrite: the guest of {} cannot go on:\n{}\n", name, CleanLines(info.details, kMaxLongText));
      return kExitGuestFault;
    case StopReason::kError:
      fmt::print(stderr, "ferrite: machine {} failed: {}\n", name, CleanLines(info.details, kMaxLongText));
      return kExitFailure;
    case StopReason::kMoved:
      fmt::print(stderr, "ferrite: machine {} has moved to {}\n", name, CleanText(info.details, kMaxLongText));
      return kExitOk;
    default:
      return kExitOk;
  }
}

namespace {

int RunHere(const CommandLine& line, const std::function<void()>& ready) {
  const auto info = RunMachine(line, ready);
  return info.ok() ? ReportEnd(line.run.config.name, *info) : Fail(info.status(), kExitFailure);
}

}  // namespace

int RunCommand(const CommandLine& line) {
  if (!line.run.detach) {
    return RunHere(line, [] {});
  }
  CommandLine absolute = line;
  if (const absl::Status status = MakePathsAbsolute(absolute); !status.ok()) {
    return Fail(status, kExitFailure);
  }
  if (!line.run.debuggable) {
    // Before there is the process that will have the guest: nobody can look into that while it is young.
    if (const absl::Status status = HideProcess(); !status.ok()) {
      return Fail(status, kExitFailure);
    }
  }
  const auto child = RunDetached([&](const std::function<void()>& ready) { return RunHere(absolute, ready); });
  if (!child.ok()) {
    return Fail(child.status(), kExitFailure);
  }
  if (!child->ready) {
    return child->exit_code;
  }
  if (line.json) {
    PrintJson({{"name", line.run.config.name}, {"pid", child->pid}}, /*indented=*/true);
  } else {
    fmt::print("{} {}\n", line.run.config.name, child->pid);
  }
  return kExitOk;
}

}  // namespace ferrite
