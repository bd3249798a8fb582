// What a client hears of a machine.
#ifndef FERRITE_VMM_CONTROL_MACHINE_DESCRIPTION_H_
#define FERRITE_VMM_CONTROL_MACHINE_DESCRIPTION_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "vmm/control/mirror_port.h"
#include "vmm/control/move_port.h"
#include "vmm/machine/balloon_port.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/machine.h"

namespace ferrite {

// As `describe` in proto/control.capnp.
struct MachineDescription {
  std::string name;
  MachineState state = MachineState::kCreated;
  pid_t pid = 0;  // of who answers, by the kernel's word; 0 when it is in no namespace of ours
  std::string version;
  absl::Duration uptime;
  uint32_t cpus = 0;
  uint64_t memory_bytes = 0;
  std::string memory_backing;
  uint64_t memory_resident_bytes = 0;
  uint64_t memory_huge_bytes = 0;    // of these
  std::vector<uint64_t> lost_pages;  // the first of them, as guest-physical addresses
  uint64_t lost_page_count = 0;
  int64_t started_ns = 0;
  int64_t first_entry_ns = 0;
  std::string kernel;
  std::string initrd;
  std::string command_line;
  std::vector<DeviceReport> devices;  // in their order
  bool has_balloon = false;
  BalloonFigures balloon;
  uint64_t console_dropped_bytes = 0;
  MoveStatus move;                    // away from there
  MoveStatus arrival;                 // to there
  std::vector<MirrorStatus> mirrors;  // each disk's last one
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MACHINE_DESCRIPTION_H_
