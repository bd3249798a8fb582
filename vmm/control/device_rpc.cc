#include "vmm/control/device_rpc.h"

#include <string>
#include <utility>
#include <variant>

#include "base/clean_text.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

std::string Copy(capnp::Text::Reader text) { return CleanText({text.cStr(), text.size()}, kMaxLongText); }

}  // namespace

void FillDevices(const MachineConfig& config, control::Description::Builder out) {
  auto devices = out.initDevices(static_cast<uint32_t>(config.devices.size()));
  for (uint32_t i = 0; i < devices.size(); ++i) {
    const DeviceReport report = KindOf(config.devices[i]).report(config.devices[i]);
    devices[i].setKind(ToKj(report.kind));
    devices[i].setId(ToKj(report.id));
    auto facts = devices[i].initFacts(static_cast<uint32_t>(report.facts.size()));
    for (uint32_t fact = 0; fact < facts.size(); ++fact) {
      const auto& [name, value] = report.facts[fact];
      facts[fact].setName(ToKj(name));
      if (const bool* flag = std::get_if<bool>(&value); flag != nullptr) {
        facts[fact].setFlag(*flag);
      } else {
        facts[fact].setText(ToKj(std::get<std::string>(value)));
      }
    }
  }
  const auto disks = config.all<DiskConfig>();
  auto out_disks = out.initDisks(static_cast<uint32_t>(disks.size()));
  for (uint32_t i = 0; i < disks.size(); ++i) {
    out_disks[i].setId(ToKj(disks[i]->id));
    out_disks[i].setPath(ToKj(disks[i]->path));
    out_disks[i].setReadOnly(disks[i]->read_only);
  }
  out.setRng(!config.all<RngConfig>().empty());
}

std::vector<DeviceReport> ReadDevices(control::Description::Reader in) {
  std::vector<DeviceReport> reports;
  ReadList(in.getDevices(), [&](control::Description::Device::Reader device) {
    DeviceReport report{.kind = Copy(device.getKind()), .id = Copy(device.getId())};
    ReadList(device.getFacts(), [&](control::Description::Device::Fact::Reader fact) {
      if (fact.isFlag()) {
        report.facts.emplace_back(Copy(fact.getName()), fact.getFlag());
      } else if (fact.isText()) {
        report.facts.emplace_back(Copy(fact.getName()), Copy(fact.getText()));
      }
    });
    reports.push_back(std::move(report));
  });
  if (!reports.empty()) {
    return reports;
  }
  if (in.getRng()) {
    reports.push_back(KindOf(RngConfig{}).report(RngConfig{}));
  }
  ReadList(in.getDisks(), [&](control::Description::Disk::Reader disk) {
    const DiskConfig config{.id = Copy(disk.getId()), .path = Copy(disk.getPath()), .read_only = disk.getReadOnly()};
    reports.push_back(KindOf(config).report(config));
  });
  return reports;
}

}  // namespace ferrite
