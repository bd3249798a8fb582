// What the destination's user decides of a machine that moves here, not the source.
#ifndef FERRITE_VMM_MOVE_ARRIVAL_OPTIONS_H_
#define FERRITE_VMM_MOVE_ARRIVAL_OPTIONS_H_

#include <map>
#include <string>
#include <vector>

#include "vmm/move/arrival_limits.h"

namespace ferrite {

struct ArrivalOptions {
  std::string name;
  std::map<std::string, std::string> disk_paths;  // by the disk's id
  std::vector<std::string> disk_from;             // directories: others may be where the source says, below one of them
  // Where a disk is copied to, by its id.
  struct DiskCopy {
    std::string path;
    bool existing = false;  // it is there, and is written over
  };
  std::map<std::string, DiskCopy> disk_copies;
  std::string disk_copy_dir;  // the disks that are not named are copied to there, as NAME-ID.img; empty: they are not
  bool trust_disks = false;   // disk_paths are right also where it shows that nobody has them open
  std::string kernel_path;    // what a reset boots; empty: the source's kernel and initrd, if allowed
  std::string initrd_path;    // of kernel_path; empty: none
  std::vector<std::string> boot_from;  // directories: below one of them the source's kernel and initrd may be
  bool lock_memory = false;            // once the guest has arrived
  bool pin_memory = false;             // it comes over RDMA, and may be registered, all of it
  bool dirty_ring = false;             // MachineConfig's
  ArrivalLimits limits;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_ARRIVAL_OPTIONS_H_
