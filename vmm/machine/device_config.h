// What each virtio device of a machine is told. What else there is of a kind stands in device_kinds.cc.
#ifndef FERRITE_VMM_MACHINE_DEVICE_CONFIG_H_
#define FERRITE_VMM_MACHINE_DEVICE_CONFIG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "base/pinned_file.h"

namespace ferrite {

struct RngConfig {};

struct BalloonConfig {
  uint64_t bytes = 0;  // the target at start
};

struct DiskConfig {
  std::string id;  // "root"; device name "virtio-blk:root"
  std::string path;
  bool read_only = false;
  // With disks_elsewhere, where the image was found before: it is not looked at once more.
  std::shared_ptr<const PinnedFile> file;
  uint64_t sectors = 0;
};

// An alternative for each entry of DeviceKinds(), in the same order.
using DeviceConfig = std::variant<RngConfig, BalloonConfig, DiskConfig>;

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_DEVICE_CONFIG_H_
