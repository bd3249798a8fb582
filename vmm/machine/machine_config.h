// What a machine is made of. Parsed by who describes it (a command line, the source of a move) and checked by
// machine_check.h; Machine trusts it.
#ifndef FERRITE_VMM_MACHINE_MACHINE_CONFIG_H_
#define FERRITE_VMM_MACHINE_MACHINE_CONFIG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/pinned_file.h"
#include "memory/memory_region.h"
#include "vmm/boot/boot_file.h"

namespace ferrite {

// Of one machine.
inline constexpr uint32_t kMaxCpus = 32;
inline constexpr uint32_t kMaxDisks = 16;
// In bytes; the kernel's own limit (COMMAND_LINE_SIZE of x86).
inline constexpr uint32_t kMaxKernelCommandLine = 2047;

struct DiskConfig {
  std::string id;  // "root"; device name "virtio-blk:root"
  std::string path;
  bool read_only = false;
  // With disks_elsewhere, where the image was found before: it is not looked at once more.
  std::shared_ptr<const PinnedFile> file;
  uint64_t sectors = 0;
};

struct MachineConfig {
  std::string name;
  uint32_t cpus = 1;  // 1 to kMaxCpus
  uint64_t memory_bytes = uint64_t{512} << 20;
  MemoryBacking memory_backing = MemoryBacking::kMemfd;
  bool transparent_huge_pages = false;
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

  std::vector<DiskConfig> disks;
  // The disks are neither locked nor kept open until Machine::AcquireDisks(): another monitor has them.
  bool disks_elsewhere = false;
  std::optional<uint64_t> balloon_bytes;  // the target at start; no balloon device when absent
  bool rng = false;

  bool reboot_on_reset = true;  // false: a reset by the guest stops the machine

  // What the start-up figures count from, in ns of the monotonic clock; 0: the machine's creation.
  int64_t started_ns = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_CONFIG_H_
