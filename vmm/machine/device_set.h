// The devices of a machine: made from its configuration, placed on the buses, wired to KVM.
#ifndef FERRITE_VMM_MACHINE_DEVICE_SET_H_
#define FERRITE_VMM_MACHINE_DEVICE_SET_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/event_loop.h"
#include "devices/block/block.h"
#include "devices/bus/bus.h"
#include "devices/bus/device.h"
#include "devices/power/i8042_reset.h"
#include "devices/power/power_device.h"
#include "devices/serial/serial.h"
#include "devices/serial/serial_backend.h"
#include "devices/virtio/mmio_transport.h"
#include "memory/guest_memory.h"
#include "proto/machine.capnp.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/device_balloon_port.h"
#include "vmm/machine/device_config.h"
#include "vmm/machine/irq_line.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// Threads: the buses are for vCPU threads; everything else is called by one thread at a time.
class DeviceSet {
 public:
  // What the guest asks of the machine; called on vCPU threads.
  struct Requests {
    std::function<void()> power_off;
    std::function<void()> reset;
  };

  // Makes all devices of `config`. `vm`, `memory`, `loop` and `console` (may be null) outlive the set.
  static absl::StatusOr<std::unique_ptr<DeviceSet>> Create(const MachineConfig& config, const KvmVm& vm,
                                                           GuestMemory& memory, EventLoop& loop, SerialBackend* console,
                                                           Requests requests);

  Bus& mmio() { return mmio_; }
  Bus& ports() { return ports_; }
  // Null when there is none.
  Balloon* balloon() { return balloon_; }
  BalloonPort* balloon_port() { return balloon_port_.has_value() ? &*balloon_port_ : nullptr; }
  // The disks, in the order of the configuration; fixed, so any thread may look.
  struct PlacedDisk {
    std::string id;
    Block* block;
    virtio::MmioTransport* transport;
  };
  std::span<const PlacedDisk> disks() const { return disks_; }
  // What vmm/boot tells the guest of it all.
  AcpiPlatform DescribePlatform(uint32_t cpus) const;

  uint32_t size() const { return static_cast<uint32_t>(devices_.size()); }
  // In the order of their windows, the PC's own last; they are resumed the other way round.
  void Quiesce();
  void Resume();
  void Arrived();
  void Reset();

  // virtio::Device's, of all devices, but for the disks `kept`: each goes on to the last one and returns the first
  // error.
  absl::Status ReleaseFiles(std::span<const std::string> kept);
  absl::Status AcquireFiles();

  // The part of a machine's description that is about devices.
  void Describe(state::MachineDescription::Builder out) const;

  // By name, see devices/bus/device.h.
  void Save(capnp::List<state::Device>::Builder out) const;
  // Whether `in` has exactly the devices of this set, and each takes its part (R7).
  absl::Status CheckState(capnp::List<state::Device>::Reader in) const;
  void LoadState(capnp::List<state::Device>::Reader in);

 private:
  DeviceSet() : mmio_("mmio"), ports_("pio") {}

  absl::Status AddPcDevices(const KvmVm& vm, SerialBackend* console, const Requests& requests);
  absl::Status AddVirtioDevices(const MachineConfig& config, const KvmVm& vm, GuestMemory& memory, EventLoop& loop);
  absl::Status AddVirtio(const DeviceConfig& config, std::unique_ptr<virtio::Device> device, const KvmVm& vm,
                         GuestMemory& memory, EventLoop& loop);

  struct PlacedVirtio {
    DeviceConfig config;
    std::unique_ptr<virtio::MmioTransport> transport;
  };

  Bus mmio_;
  Bus ports_;
  std::vector<std::unique_ptr<IrqLine>> irq_lines_;
  std::unique_ptr<Serial> serial_;
  std::unique_ptr<PowerDevice> power_;
  std::unique_ptr<I8042Reset> i8042_;
  std::vector<PlacedVirtio> virtio_;
  Balloon* balloon_ = nullptr;
  std::optional<DeviceBalloonPort> balloon_port_;
  std::vector<PlacedDisk> disks_;
  std::vector<Device*> devices_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_DEVICE_SET_H_
