#include "vmm/boot/boot_entry.h"

namespace ferrite {

absl::string_view BootProtocolName(BootProtocol protocol) {
  switch (protocol) {
    case BootProtocol::kLinux64:
      return "64-bit bzImage entry";
    case BootProtocol::kElf64:
      return "64-bit ELF entry";
    case BootProtocol::kPvh:
      return "PVH entry";
  }
  return "unknown entry";
}

}  // namespace ferrite
