// ps
#include <fmt/format.h>

#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/text.h"
#include "vmm/base/byte_size.h"

namespace ferrite {
namespace {

// A machine that does not answer is still listed.
constexpr absl::Duration kPatience = absl::Seconds(2);

absl::StatusOr<MachineDescription> Ask(const std::string& base, const FoundMachine& found) {
  auto client = ControlClient::ConnectToMachine(base, found.name, kPatience);
  if (!client.ok()) {
    return client.status();
  }
  return (*client)->Describe();
}

using Row = std::array<std::string, 7>;

void PrintRow(const Row& row) {
  fmt::print("{:<20} {:>8} {:<12} {:>4} {:>10} {:>10} {:>9}\n", row[0], row[1], row[2], row[3], row[4], row[5], row[6]);
}

}  // namespace

int PsCommand(const CommandLine& line) {
  const auto base = RunBase(line.run_dir);
  if (!base.ok()) {
    return Fail(base.status(), kExitFailure);
  }
  // The usual one is made by the first machine; one that was named and is not there is a mistake.
  if (const absl::Status there = CheckRunBase(*base); !there.ok() && !line.run_dir.empty()) {
    return Fail(there, kExitFailure);
  }
  const auto machines = ListMachines(*base);
  if (!machines.ok()) {
    return Fail(machines.status(), kExitFailure);
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (!line.json) {
    PrintRow({"NAME", "PID", "STATE", "CPUS", "MEMORY", "RESIDENT", "UPTIME"});
  }
  for (const FoundMachine& found : *machines) {
    if (found.handed_over.has_value()) {
      if (line.json) {
        list.push_back({{"name", found.name},
                        {"state", "handed-over"},
                        {"pid", nullptr},
                        {"destination", found.handed_over->where},
                        {"epoch", found.handed_over->epoch}});
      } else {
        PrintRow({found.name, "-", absl::StrCat("handed over to ", found.handed_over->where), "-", "-", "-", "-"});
      }
      continue;
    }
    const auto machine = Ask(*base, found);
    const std::string pid = std::to_string(found.pid);
    if (line.json) {
      list.push_back(
          machine.ok() ? MachineJson(*machine)
                       : nlohmann::ordered_json({{"name", found.name}, {"state", "unreachable"}, {"pid", found.pid}}));
    } else if (machine.ok()) {
      PrintRow({found.name, pid, std::string(MachineStateName(machine->state)), std::to_string(machine->cpus),
                RoundedByteSize(machine->memory_bytes), RoundedByteSize(machine->memory_resident_bytes),
                FormatUptime(machine->uptime)});
    } else {
      // Starting, ending or stuck.
      PrintRow({found.name, pid, "unreachable", "-", "-", "-", "-"});
    }
  }
  if (line.json) {
    PrintJson(list, /*indented=*/true);
  }
  return kExitOk;
}

}  // namespace ferrite
