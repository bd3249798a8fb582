#include "vmm/machine/device_set.h"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clean_text.h"
#include "base/status.h"
#include "devices/balloon/balloon.h"
#include "devices/virtio/device.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/platform.h"

namespace ferrite {
namespace {

absl::string_view NameOf(state::Device::Reader device) {
  const capnp::Text::Reader name = device.getName();
  return {name.begin(), name.size()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceSet>> DeviceSet::Create(const MachineConfig& config, const KvmVm& vm,
                                                             GuestMemory& memory, EventLoop& loop,
                                                             SerialBackend* console, Requests requests) {
  std::unique_ptr<DeviceSet> set(new DeviceSet);
  FERRITE_RETURN_IF_ERROR(set->AddVirtioDevices(config, vm, memory, loop));
  FERRITE_RETURN_IF_ERROR(set->AddPcDevices(vm, console, requests));
  return set;
}

absl::Status DeviceSet::AddPcDevices(const KvmVm& vm, SerialBackend* console, const Requests& requests) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<IrqLine> line, IrqLine::Create(vm, kSerialIrq));
  serial_ = std::make_unique<Serial>("serial0", *line, console);
  irq_lines_.push_back(std::move(line));
  devices_.push_back(serial_.get());
  FERRITE_RETURN_IF_ERROR(ports_.Add(serial_->name(), kSerialPort, Serial::kRegisters, serial_.get()));

  power_ = std::make_unique<PowerDevice>("power", requests.power_off, requests.reset);
  devices_.push_back(power_.get());
  FERRITE_RETURN_IF_ERROR(ports_.Add(power_->name(), kPowerPort, PowerDevice::kRegisters, power_.get()));

  i8042_ = std::make_unique<I8042Reset>(requests.reset);
  return ports_.Add("i8042", I8042Reset::kPort, I8042Reset::kRegisters, i8042_.get());
}

absl::Status DeviceSet::AddVirtioDevices(const MachineConfig& config, const KvmVm& vm, GuestMemory& memory,
                                         EventLoop& loop) {
  const DeviceHost host{.memory = memory, .loop = loop, .disks_elsewhere = config.disks_elsewhere};
  for (const DeviceConfig& device : config.devices) {
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<virtio::Device> made, KindOf(device).build(device, host));
    if (std::holds_alternative<BalloonConfig>(device)) {
      balloon_ = static_cast<Balloon*>(made.get());
      balloon_port_.emplace(*balloon_);
    }
    virtio::Device* const placed = made.get();
    FERRITE_RETURN_IF_ERROR(AddVirtio(device, std::move(made), vm, memory, loop));
    if (const auto* disk = std::get_if<DiskConfig>(&device); disk != nullptr) {
      disks_.push_back({disk->id, static_cast<Block*>(placed), virtio_.back().transport.get()});
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceSet::AddVirtio(const DeviceConfig& config, std::unique_ptr<virtio::Device> device, const KvmVm& vm,
                                  GuestMemory& memory, EventLoop& loop) {
  const uint32_t index = static_cast<uint32_t>(virtio_.size());
  FERRITE_CHECK(index < kMaxVirtioDevices);
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<IrqLine> line, IrqLine::Create(vm, kVirtioIrqs[index]));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<virtio::MmioTransport> transport,
                           virtio::MmioTransport::Create(std::move(device), memory, *line, loop));
  const GuestAddress window = kVirtioMmioBase + index * virtio::kMmioWindowBytes;
  FERRITE_RETURN_IF_ERROR(mmio_.Add(transport->name(), window.value(), virtio::kMmioWindowBytes, transport.get()));
  const std::span<const EventFd> doorbells = transport->doorbells();
  for (size_t queue = 0; queue < doorbells.size(); ++queue) {
    FERRITE_RETURN_IF_ERROR(
        vm.AddIoEventFd(doorbells[queue].fd(), window + virtio::kQueueNotifyOffset, sizeof(uint32_t), queue));
  }
  devices_.push_back(transport.get());
  irq_lines_.push_back(std::move(line));
  virtio_.push_back({config, std::move(transport)});
  return absl::OkStatus();
}

AcpiPlatform DeviceSet::DescribePlatform(uint32_t cpus) const {
  AcpiPlatform platform;
  platform.cpus = cpus;
  platform.sleep_control_port = kPowerPort + PowerDevice::kSleepControl;
  platform.sleep_status_port = kPowerPort + PowerDevice::kSleepStatus;
  platform.reset_port = kPowerPort + PowerDevice::kReset;
  platform.reset_value = PowerDevice::kResetValue;
  platform.serial = AcpiPlatform::Serial{.port = kSerialPort, .irq = kSerialIrq};
  for (uint32_t i = 0; i < virtio_.size(); ++i) {
    platform.virtio_mmio.push_back(
        {.base = static_cast<uint32_t>((kVirtioMmioBase + i * virtio::kMmioWindowBytes).value()),
         .bytes = virtio::kMmioWindowBytes,
         .irq = kVirtioIrqs[i]});
  }
  return platform;
}

void DeviceSet::Quiesce() {
  for (Device* const device : devices_) {
    device->Quiesce();
  }
}

void DeviceSet::Resume() {
  std::for_each(devices_.rbegin(), devices_.rend(), [](Device* device) { device->Resume(); });
}

void DeviceSet::Arrived() {
  for (Device* const device : devices_) {
    device->Arrived();
  }
}

void DeviceSet::Reset() {
  for (Device* const device : devices_) {
    device->Reset();
  }
}

absl::Status DeviceSet::ReleaseFiles(std::span<const std::string> kept) {
  const auto is_kept = [&](const virtio::Device& device) {
    return std::any_of(disks_.begin(), disks_.end(), [&](const PlacedDisk& disk) {
      return disk.block == &device && std::find(kept.begin(), kept.end(), disk.id) != kept.end();
    });
  };
  absl::Status status;
  for (const PlacedVirtio& placed : virtio_) {
    virtio::Device& device = placed.transport->device();
    if (!is_kept(device)) {
      const virtio::Device::Lock lock(&device);
      status.Update(device.ReleaseFiles());
    }
  }
  return status;
}

absl::Status DeviceSet::AcquireFiles() {
  absl::Status status;
  for (const PlacedVirtio& placed : virtio_) {
    virtio::Device& device = placed.transport->device();
    const virtio::Device::Lock lock(&device);
    status.Update(device.AcquireFiles());
  }
  return status;
}

void DeviceSet::Describe(state::MachineDescription::Builder out) const {
  auto devices = out.initDevices(size());
  for (uint32_t i = 0; i < size(); ++i) {
    devices[i].setName(std::string(devices_[i]->name()));
    devices[i].setVersion(devices_[i]->state_version());
  }
  DeviceDetails details;
  for (const PlacedVirtio& placed : virtio_) {
    KindOf(placed.config).describe(placed.config, placed.transport->device(), details);
  }
  auto disks = out.initDisks(static_cast<uint32_t>(details.disks.size()));
  for (uint32_t i = 0; i < disks.size(); ++i) {
    disks[i].setId(details.disks[i].id);
    disks[i].setPath(details.disks[i].path);
    disks[i].setReadOnly(details.disks[i].read_only);
    disks[i].setBytes(details.disks[i].bytes);
  }
}

void DeviceSet::Save(capnp::List<state::Device>::Builder out) const {
  for (uint32_t i = 0; i < devices_.size(); ++i) {
    devices_[i]->Save(out[i]);
  }
}

absl::Status DeviceSet::CheckState(capnp::List<state::Device>::Reader in) const {
  absl::flat_hash_map<absl::string_view, state::Device::Reader> states;
  for (const state::Device::Reader device : in) {
    const absl::string_view name = NameOf(device);
    if (!states.emplace(name, device).second) {
      return absl::InvalidArgumentError(absl::StrCat("the state has the device ", CleanText(name), " twice"));
    }
    // Of a device that is not known here and one that is missing, the first explains more.
    if (std::none_of(devices_.begin(), devices_.end(), [&](const Device* known) { return known->name() == name; })) {
      return absl::FailedPreconditionError(
          absl::StrCat("the state has the device ", CleanText(name), ", which this machine lacks"));
    }
  }
  for (const Device* const device : devices_) {
    const auto found = states.find(device->name());
    if (found == states.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the state lacks the device ", device->name(), ", which this machine has"));
    }
    FERRITE_RETURN_IF_ERROR(device->CheckState(found->second));
  }
  return absl::OkStatus();
}

void DeviceSet::LoadState(capnp::List<state::Device>::Reader in) {
  for (const state::Device::Reader state : in) {
    const auto device = std::find_if(devices_.begin(), devices_.end(),
                                     [&](const Device* known) { return known->name() == NameOf(state); });
    FERRITE_CHECK(device != devices_.end());
    (*device)->LoadState(state);
  }
}

}  // namespace ferrite
