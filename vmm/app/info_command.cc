#include "vmm/app/info_command.h"

#include <fmt/format.h>

#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/mirror_text.h"
#include "vmm/app/move_text.h"
#include "vmm/app/text.h"
#include "vmm/control/machine_directory.h"
#include "vmm/machine/device_kinds.h"

namespace ferrite {
namespace {

// "root: /images/root.img (read only)", or "yes" where nothing is known but that it is there.
std::string DeviceText(const DeviceReport& device) {
  std::vector<std::string> texts;
  std::string flags;
  for (const auto& [name, value] : device.facts) {
    if (const auto* text = std::get_if<std::string>(&value); text != nullptr) {
      texts.push_back(*text);
    } else if (std::get<bool>(value)) {
      absl::StrAppend(&flags, " (", absl::StrReplaceAll(name, {{"_", " "}}), ")");
    }
  }
  if (texts.empty() && flags.empty()) {
    return device.id.empty() ? "yes" : device.id;
  }
  return absl::StrCat(device.id, device.id.empty() ? "" : ": ", absl::StrJoin(texts, ", "), flags);
}

// "2: 0x5000, 0x9000".
std::string LostPagesText(const MachineDescription& machine) {
  const auto address = [](std::string* out, uint64_t page) { absl::StrAppend(out, "0x", absl::Hex(page)); };
  return absl::StrCat(machine.lost_page_count, ": ", absl::StrJoin(machine.lost_pages, ", ", address),
                      machine.lost_pages.size() < machine.lost_page_count ? ", and others" : "");
}

void PrintMachine(const MachineDescription& machine) {
  const auto row = [](const std::string& key, const std::string& value) { fmt::print("{:<14} {}\n", key, value); };
  row("name", machine.name);
  row("state", std::string(MachineStateName(machine.state)));
  row("pid", fmt::format("{} (ferrite {})", machine.pid, machine.version));
  row("uptime", FormatUptime(machine.uptime));
  if (machine.cpus == 0) {
    row("waits", "for a machine that moves here");
    return;
  }
  if (machine.first_entry_ns > 0) {
    row("first entry", fmt::format("{:.1f} ms after {}", static_cast<double>(machine.first_entry_ns) / 1e6,
                                   machine.arrival.number == 0 ? "the program's start" : "the machine was made here"));
  }
  row("cpus", std::to_string(machine.cpus));
  row("memory", fmt::format("{} ({}), {} in use on the host, {} of it huge pages", FormatByteSize(machine.memory_bytes),
                            machine.memory_backing, RoundedByteSize(machine.memory_resident_bytes),
                            RoundedByteSize(machine.memory_huge_bytes)));
  if (machine.lost_page_count > 0) {
    row("lost pages", LostPagesText(machine));
  }
  row("kernel", machine.kernel);
  if (!machine.initrd.empty()) {
    row("initrd", machine.initrd);
  }
  row("command line", machine.command_line);
  for (const DeviceKind* kind : DeviceKindsAsShown()) {
    for (const DeviceReport& device : machine.devices) {
      if (device.kind == kind->name && !kind->has_figures) {
        row(std::string(kind->label), DeviceText(device));
      }
    }
  }
  if (machine.has_balloon) {
    row("balloon", fmt::format("{} given back, target {}", FormatByteSize(machine.balloon.actual_bytes),
                               FormatByteSize(machine.balloon.target_bytes)));
  }
  if (machine.arrival.number != 0) {
    row("arrived", FormatArrivalState(machine.name, machine.arrival));
    if (machine.arrival.over) {
      fmt::print("{}", FormatArrival(machine.arrival.report));
    }
  }
  if (machine.move.number != 0) {
    row("last move", fmt::format("to {}: {}", machine.move.where, FormatLastMove(machine.name, machine.move)));
    if (machine.move.over && machine.move.result.ok()) {
      fmt::print("{}", FormatMoveAccount(machine.move.report));
    }
  }
  for (const MirrorStatus& mirror : machine.mirrors) {
    row("mirror", absl::StrCat(mirror.disk, " ", FormatLastMirror(mirror)));
  }
  if (machine.console_dropped_bytes > 0) {
    row("console", fmt::format("{} bytes of output were dropped", machine.console_dropped_bytes));
  }
}

class InfoCommand final : public CommandWith<InfoCommandOptions> {
 public:
  InfoCommand() : CommandWith({"info", "Show a machine", "ferrite info web1 --json"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddJson(app, options_.json);
    AddTimeout(app, options_.machine);
  }

  absl::Status Finish() override { return CheckMachineName(options_.machine.name); }

  int Run(int64_t /*started_ns*/) override {
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      const auto machine = client.Describe();
      if (!machine.ok()) {
        return Fail(machine.status());
      }
      if (options_.json) {
        PrintJson(MachineJson(*machine), /*indented=*/true);
      } else {
        PrintMachine(*machine);
      }
      return kExitOk;
    });
  }
};

}  // namespace

std::unique_ptr<Command> MakeInfoCommand() { return std::make_unique<InfoCommand>(); }

}  // namespace ferrite
