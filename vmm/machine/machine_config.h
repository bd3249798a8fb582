// What a machine is made of. Parsed by who describes it (a command line, the source of a move) and checked by
// machine_check.h; Machine trusts it.
#ifndef FERRITE_VMM_MACHINE_MACHINE_CONFIG_H_
#define FERRITE_VMM_MACHINE_MACHINE_CONFIG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "memory/memory_region.h"
#include "vmm/boot/boot_file.h"
#include "vmm/machine/device_config.h"

namespace ferrite {

// Of one machine.
inline constexpr uint32_t kMaxCpus = 32;
inline constexpr uint32_t kMaxDisks = 16;
// In bytes; the kernel's own limit (COMMAND_LINE_SIZE of x86).
inline constexpr uint32_t kMaxKernelCommandLine = 2047;

struct MachineConfig {
  std::string name;
  uint32_t cpus = 1;  // 1 to kMaxCpus
  uint64_t memory_bytes = uint64_t{512} << 20;
  MemoryBacking memory_backing = MemoryBacking::kAnonymous;
  bool transparent_huge_pages = true;          // where the backing and the host can have them
  bool lock_memory = false;                    // mlock(2) of guest RAM
  bool dirty_ring = false;                     // KVM's dirty ring in place of its dirty log
  std::optional<uint32_t> dirty_ring_entries;  // kRingEntries when absent

  // Empty when the machine is to be loaded from a state, not booted.
  std::string kernel_path;
  std::string initrd_path;  // empty: none
  // The files themselves. Null: they are found when the machine is made, and are the same from then on.
  std::shared_ptr<const BootFile> kernel;
  std::shared_ptr<const BootFile> initrd;
  std::string command_line;

  // In the order of their windows, which is part of the guest's view of the machine.
  std::vector<DeviceConfig> devices;
  // Those of one kind, in the same order.
  template <typename Config>
  std::vector<const Config*> all() const;
  template <typename Config>
  std::vector<Config*> all();
  // The disks are neither locked nor kept open until Machine::AcquireDisks(): another monitor has them.
  bool disks_elsewhere = false;

  bool reboot_on_reset = true;  // false: a reset by the guest stops the machine

  // What the start-up figures count from, in ns of the monotonic clock; 0: the machine's creation.
  int64_t started_ns = 0;
};

template <typename Config>
std::vector<const Config*> MachineConfig::all() const {
  std::vector<const Config*> found;
  for (const DeviceConfig& device : devices) {
    if (const auto* config = std::get_if<Config>(&device); config != nullptr) {
      found.push_back(config);
    }
  }
  return found;
}

template <typename Config>
std::vector<Config*> MachineConfig::all() {
  std::vector<Config*> found;
  for (DeviceConfig& device : devices) {
    if (auto* config = std::get_if<Config>(&device); config != nullptr) {
      found.push_back(config);
    }
  }
  return found;
}

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_CONFIG_H_
