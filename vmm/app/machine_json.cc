#include "vmm/app/machine_json.h"

#include <fmt/format.h>

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "vmm/app/mirror_text.h"
#include "vmm/app/move_text.h"
#include "vmm/machine/device_kinds.h"

namespace ferrite {

using Json = nlohmann::ordered_json;

namespace {

Json FactsJson(const DeviceReport& device) {
  Json json = Json::object();
  if (!device.id.empty()) {
    json["id"] = device.id;
  }
  for (const auto& [name, value] : device.facts) {
    if (const bool* flag = std::get_if<bool>(&value); flag != nullptr) {
      json[name] = *flag;
    } else {
      json[name] = std::get<std::string>(value);
    }
  }
  return json;
}

// Of a kind that there can be several of, a list; else whether there is one, or what is known of it.
Json DevicesJson(const DeviceKind& kind, const std::vector<DeviceReport>& devices) {
  Json all = Json::array();
  for (const DeviceReport& device : devices) {
    if (device.kind == kind.name) {
      all.push_back(FactsJson(device));
    }
  }
  if (kind.most > 1) {
    return all;
  }
  if (all.empty() || all[0].empty()) {
    return !all.empty();
  }
  return all[0];
}

}  // namespace

Json BalloonJson(const BalloonFigures& figures) {
  Json statistics = Json::object();
  for (const auto& [name, value] : figures.statistics) {
    statistics[name] = value;
  }
  return {{"target_bytes", figures.target_bytes}, {"actual_bytes", figures.actual_bytes}, {"statistics", statistics}};
}

Json MachineJson(const MachineDescription& machine) {
  Json json = {
      {"name", machine.name},
      {"state", std::string(MachineStateName(machine.state))},
      {"pid", machine.pid},
      {"version", machine.version},
      {"uptime_seconds", absl::ToDoubleSeconds(machine.uptime)},
      {"cpus", machine.cpus},
      {"memory_bytes", machine.memory_bytes},
      {"memory_backing", machine.memory_backing},
      {"memory_resident_bytes", machine.memory_resident_bytes},
      {"memory_huge_bytes", machine.memory_huge_bytes},
      {"lost_page_count", machine.lost_page_count},
      {"lost_pages", machine.lost_pages},
      {"started_monotonic_seconds", static_cast<double>(machine.started_ns) / 1e9},
      {"first_entry_seconds", static_cast<double>(machine.first_entry_ns) / 1e9},
      {"kernel", machine.kernel},
      {"initrd", machine.initrd},
      {"command_line", machine.command_line},
  };
  for (const DeviceKind* kind : DeviceKindsAsShown()) {
    if (!kind->has_figures) {
      json[std::string(kind->most == 1 ? kind->label : kind->plural)] = DevicesJson(*kind, machine.devices);
    }
  }
  json["balloon"] = machine.has_balloon ? BalloonJson(machine.balloon) : Json(nullptr);
  json["console_dropped_bytes"] = machine.console_dropped_bytes;
  json["arrival"] = ArrivalJson(machine.arrival);
  json["move"] = MoveJson(machine.move);
  Json mirrors = Json::array();
  for (const MirrorStatus& mirror : machine.mirrors) {
    mirrors.push_back(MirrorJson(mirror));
  }
  json["mirrors"] = std::move(mirrors);
  return json;
}

void PrintJson(const Json& json, bool indented) {
  fmt::print("{}\n", json.dump(indented ? 2 : -1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace ferrite
