// The kinds of virtio devices that a machine can have. What there is of a kind beside the device itself is one entry of
// a table: how a command line and a description tell of one, what is valid, how it is made, what `info` shows.
#ifndef FERRITE_VMM_MACHINE_DEVICE_KINDS_H_
#define FERRITE_VMM_MACHINE_DEVICE_KINDS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/event_loop.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// What `info` shows of a device: facts that do not change while the machine is there.
struct DeviceReport {
  std::string kind;  // DeviceKind::name
  std::string id;    // empty where a machine has one of the kind
  std::vector<std::pair<std::string, std::variant<bool, std::string>>> facts;
};

// What the description of a machine says of its devices beside their names and versions.
struct DeviceDetails {
  struct Disk {
    std::string id;
    std::string path;  // at the source
    uint64_t bytes = 0;
    bool read_only = false;
  };
  std::vector<Disk> disks;
};

// What devices are made with; it outlives them.
struct DeviceHost {
  GuestMemory& memory;
  EventLoop& loop;
  bool disks_elsewhere = false;  // MachineConfig's
};

struct DeviceKind {
  // Of the option of `run`: a flag, or with a value that help calls `value`.
  struct Option {
    absl::string_view name;
    absl::string_view value;
    absl::string_view help;
  };

  absl::string_view
      name;       // of its devices, "virtio-rng"; where there can be more than one with their id, "virtio-blk:root"
  uint32_t most;  // of one machine
  absl::string_view plural;  // "disks": where there can be more than one, in errors and in the JSON of `info`
  absl::string_view label;   // "disk": in `info`
  bool has_figures;          // that change: `info` shows those, and no facts
  Option option;

  // `index` counts the machine's devices of the kind.
  absl::StatusOr<DeviceConfig> (*parse)(absl::string_view words, size_t index);
  absl::Status (*check)(const DeviceConfig& config, const MachineConfig& machine);
  absl::StatusOr<std::unique_ptr<virtio::Device>> (*build)(const DeviceConfig& config, const DeviceHost& host);
  // Adds to `details` what the destination of a move is to know of a device that was built.
  void (*describe)(const DeviceConfig& config, const virtio::Device& device, DeviceDetails& details);
  // The configuration that makes a described device; files of this host are still to be found.
  absl::StatusOr<DeviceConfig> (*accept)(absl::string_view id, const DeviceDetails& details);
  DeviceReport (*report)(const DeviceConfig& config);
};

// In the order of the devices of `run` on the bus: that is part of the guest's view of the machine.
std::span<const DeviceKind> DeviceKinds();
// The same in the order in which people are told of them, which is the other way round.
std::vector<const DeviceKind*> DeviceKindsAsShown();
const DeviceKind& KindOf(const DeviceConfig& device);
// Null when there is no such kind.
const DeviceKind* FindKind(absl::string_view name);

// The name of the device in its machine, a saved state and a description: "virtio-rng", "virtio-blk:root".
std::string DeviceName(const DeviceConfig& device);
// Empty where a machine has one of the kind.
std::string DeviceId(const DeviceConfig& device);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_DEVICE_KINDS_H_
