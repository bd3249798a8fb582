#include "vmm/app/machine_json.h"

#include <fmt/format.h>

#include <string>

#include "vmm/app/move_text.h"

namespace ferrite {

using Json = nlohmann::ordered_json;

Json BalloonJson(const BalloonFigures& figures) {
  Json statistics = Json::object();
  for (const auto& [name, value] : figures.statistics) {
    statistics[name] = value;
  }
  return {{"target_bytes", figures.target_bytes}, {"actual_bytes", figures.actual_bytes}, {"statistics", statistics}};
}

Json MachineJson(const MachineDescription& machine) {
  Json disks = Json::array();
  for (const DiskConfig& disk : machine.disks) {
    disks.push_back({{"id", disk.id}, {"path", disk.path}, {"read_only", disk.read_only}});
  }
  return {
      {"name", machine.name},
      {"state", std::string(MachineStateName(machine.state))},
      {"pid", machine.pid},
      {"version", machine.version},
      {"uptime_seconds", absl::ToDoubleSeconds(machine.uptime)},
      {"cpus", machine.cpus},
      {"memory_bytes", machine.memory_bytes},
      {"memory_backing", machine.memory_backing},
      {"memory_resident_bytes", machine.memory_resident_bytes},
      {"started_monotonic_seconds", static_cast<double>(machine.started_ns) / 1e9},
      {"first_entry_seconds", static_cast<double>(machine.first_entry_ns) / 1e9},
      {"kernel", machine.kernel},
      {"initrd", machine.initrd},
      {"command_line", machine.command_line},
      {"disks", disks},
      {"rng", machine.rng},
      {"balloon", machine.has_balloon ? BalloonJson(machine.balloon) : Json(nullptr)},
      {"console_dropped_bytes", machine.console_dropped_bytes},
      {"arrival", ArrivalJson(machine.arrival)},
      {"move", MoveJson(machine.move)},
  };
}

void PrintJson(const Json& json, bool indented) {
  fmt::print("{}\n", json.dump(indented ? 2 : -1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace ferrite
