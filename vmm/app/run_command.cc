#include "vmm/app/run_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "vmm/app/command_options.h"
#include "vmm/app/commands.h"
#include "vmm/app/detach.h"
#include "vmm/app/hiding.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/monitor.h"
#include "vmm/control/machine_directory.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/host_limits.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_check.h"

namespace ferrite {
namespace {

// Resolves the paths: a detached machine leaves the caller's directory.
absl::Status MakePathsAbsolute(RunCommandOptions& options) {
  std::vector<std::string*> paths = {&options.monitor.run_dir, &options.monitor.log_path, &options.monitor.console.path,
                                     &options.config.kernel_path, &options.config.initrd_path};
  for (DiskConfig* disk : options.config.all<DiskConfig>()) {
    paths.push_back(&disk->path);
  }
  for (std::string* path : paths) {
    if (!path->empty()) {
      FERRITE_ASSIGN_OR_RETURN(*path, AbsolutePath(*path));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StopInfo> RunMachine(const RunCommandOptions& options, const std::function<void()>& ready) {
  const MachineConfig& config = options.config;
  FERRITE_RETURN_IF_ERROR(CheckFiles(config));
  FERRITE_ASSIGN_OR_RETURN(const HostMemory memory, ReadHostMemory());
  FERRITE_RETURN_IF_ERROR(CheckHostHasMemory(config, memory, DescribedBy::kCommandLine));
  FERRITE_ASSIGN_OR_RETURN(const auto monitor, Monitor::Create(config.name, options.monitor));
  FERRITE_ASSIGN_OR_RETURN(const HostLimits host, ReadHostLimits(monitor->kvm()));
  FERRITE_RETURN_IF_ERROR(CheckHostHas(config, host, DescribedBy::kCommandLine));
  for (const DiskConfig* disk : config.all<DiskConfig>()) {
    WarnOfOthersDisk(disk->path, disk->read_only);
  }
  FERRITE_ASSIGN_OR_RETURN(auto owned, Machine::Create(config, monitor->kvm(), monitor->loop(), &monitor->console()));
  Machine& machine = *owned;
  machine.SetListener(monitor->Listener());
  monitor->SetMachine(std::move(owned));
  FERRITE_RETURN_IF_ERROR(monitor->CheckNotEnding());
  FERRITE_RETURN_IF_ERROR(machine.Boot());
  FERRITE_RETURN_IF_ERROR(monitor->CheckNotEnding());
  FERRITE_RETURN_IF_ERROR(monitor->Serve());
  const absl::Status resumed = machine.Resume();
  if (resumed.ok()) {
    ready();
    monitor->WaitForEnd();
  }
  StopInfo info = monitor->Stop();
  if (options.detach && (info.reason == StopReason::kGuestFault || info.reason == StopReason::kError)) {
    // Nobody reads what is printed; the log holds the same.
    monitor->KeepLog();
  }
  FERRITE_RETURN_IF_ERROR(resumed);
  return info;
}

int RunHere(const RunCommandOptions& options, const std::function<void()>& ready) {
  const auto info = RunMachine(options, ready);
  return info.ok() ? ReportEnd(options.config.name, *info) : Fail(info.status(), kExitFailure);
}

int RunInBackground(const RunCommandOptions& options) {
  RunCommandOptions absolute = options;
  if (const absl::Status status = MakePathsAbsolute(absolute); !status.ok()) {
    return Fail(status, kExitFailure);
  }
  if (!options.monitor.debuggable) {
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
  if (options.json) {
    PrintJson({{"name", options.config.name}, {"pid", child->pid}}, /*indented=*/true);
  } else {
    fmt::print("{} {}\n", options.config.name, child->pid);
  }
  return kExitOk;
}

class RunCommand final : public CommandWith<RunCommandOptions> {
 public:
  RunCommand()
      : CommandWith({"run", "Make and run a machine; ends with it",
                     "ferrite run --name web1 --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 "
                     "--mem 512M --cpus 2\n    --disk id=root,path=root.img --balloon 0 --rng"}) {}

  void AddTo(CLI::App& app) override {
    AddRunDir(app, options_.monitor.run_dir);
    MachineConfig& config = options_.config;
    app.add_option("--name", config.name, "Its name for the other commands [vm- and a random number]")
        ->type_name("NAME");
    app.add_option("--kernel", config.kernel_path, "bzImage or uncompressed ELF kernel")->required()->type_name("FILE");
    app.add_option("--initrd", config.initrd_path, "Initial RAM disk")->type_name("FILE");
    app.add_option("--cmdline", config.command_line, "Kernel command line")->type_name("TEXT");
    app.add_option("--mem", words_.memory, "Memory, 16M to 4T [512M]")->type_name("SIZE");
    app.add_option("--cpus", config.cpus, "Processors, 1 to 32 [1]")
        ->type_name("N")
        ->check(InRange(1, static_cast<int>(kMaxCpus)));
    for (const DeviceKind* kind : DeviceKindsAsShown()) {
      const std::string name(kind->option.name);
      const std::string help(kind->option.help);
      DeviceWords& words = words_.devices[kind];
      if (kind->option.value.empty()) {
        app.add_flag(name, words.flag, help);
      } else if (kind->most == 1) {
        app.add_option(name, words.value, help)->type_name(std::string(kind->option.value));
      } else {
        Repeatable(app.add_option(name, words.values, help))->type_name(std::string(kind->option.value));
      }
    }
    app.add_option("--console", words_.console,
                   "Serial console: stdio, none, file:PATH[,max=SIZE] or unix:PATH [stdio; none with --detach]")
        ->type_name("SINK");
    app.add_option("--memory-backing", words_.backing, "anon, memfd, hugetlb-2M or hugetlb-1G [anon]")
        ->type_name("KIND");
    app.add_option("--thp", words_.thp, "Transparent huge pages, where the host has them: on or off [on]")
        ->type_name("on|off")
        // At once: without its value it takes the next option for that.
        ->check([](const std::string& word) {
          return word == "on" || word == "off" ? std::string() : absl::StrCat("'", word, "' is neither on nor off");
        });
    app.add_flag("--mlock", config.lock_memory, "Lock the guest's memory in RAM");
    app.add_flag("--no-reboot", words_.no_reboot, "A reset by the guest ends the machine");
    app.add_flag("--dirty-ring", config.dirty_ring, "Track dirty pages with KVM's ring in place of its log");
    app.add_flag("--detach", options_.detach, "Return when the machine runs, and print its name and process id");
    AddLogAndDebuggable(app, options_.monitor);
    AddJson(app, options_.json);
  }

  absl::Status Finish() override {
    FERRITE_RETURN_IF_ERROR(FinishConfig());
    const char* default_console = options_.detach ? "none" : "stdio";
    auto console = ParseConsoleSink(words_.console.empty() ? default_console : words_.console);
    FERRITE_RETURN_IF_ERROR(Annotate(console.status(), "--console"));
    options_.monitor.console = *std::move(console);
    if (options_.detach && options_.monitor.console.kind == ConsoleSink::Kind::kStdio) {
      return absl::InvalidArgumentError(
          "--console stdio: a detached machine has no terminal; use none (the default with --detach) and `ferrite "
          "console`, or file:PATH, or unix:PATH");
    }
    if (options_.json && !options_.detach) {
      return absl::InvalidArgumentError("--json: without --detach there is nothing to print");
    }
    return absl::OkStatus();
  }

  int Run(int64_t started_ns) override {
    options_.config.started_ns = started_ns;
    return options_.detach ? RunInBackground(options_) : RunHere(options_, [] {});
  }

 private:
  // Of one kind of device, as its option takes them.
  struct DeviceWords {
    bool flag = false;
    std::string value;
    std::vector<std::string> values;
  };
  // Words that are more than a string or a number.
  struct Words {
    std::string memory = "512M";
    std::string console;
    std::string backing = "anon";
    std::string thp = "on";
    std::map<const DeviceKind*, DeviceWords> devices;
    bool no_reboot = false;
  };

  absl::Status ParseDevices() {
    for (const DeviceKind& kind : DeviceKinds()) {
      DeviceWords& words = words_.devices[&kind];
      if (words.flag || !words.value.empty()) {
        words.values.push_back(words.value);
      }
      for (size_t i = 0; i < words.values.size(); ++i) {
        auto device = kind.parse(words.values[i], i);
        FERRITE_RETURN_IF_ERROR(Annotate(device.status(), kind.option.name));
        options_.config.devices.push_back(*std::move(device));
      }
    }
    return absl::OkStatus();
  }

  absl::Status FinishConfig() {
    MachineConfig& config = options_.config;
    if (config.name.empty()) {
      config.name = absl::StrFormat("vm-%06x", std::random_device{}() & 0xff'ffff);
    }
    FERRITE_RETURN_IF_ERROR(Annotate(CheckMachineName(config.name), "--name"));
    auto backing = ParseMemoryBacking(words_.backing);
    FERRITE_RETURN_IF_ERROR(Annotate(backing.status(), "--memory-backing"));
    config.memory_backing = *backing;
    config.transparent_huge_pages = words_.thp == "on";
    auto memory = ParseByteSize(words_.memory);
    FERRITE_RETURN_IF_ERROR(Annotate(memory.status(), "--mem"));
    config.memory_bytes = *memory;
    FERRITE_RETURN_IF_ERROR(ParseDevices());
    config.reboot_on_reset = !words_.no_reboot;
    return CheckMachineConfig(config, DescribedBy::kCommandLine);
  }

  Words words_;
};

}  // namespace

std::unique_ptr<Command> MakeRunCommand() { return std::make_unique<RunCommand>(); }

}  // namespace ferrite
