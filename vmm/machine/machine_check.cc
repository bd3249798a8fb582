#include "vmm/machine/machine_check.h"

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "memory/guest_memory.h"
#include "vmm/machine/platform.h"

namespace ferrite {
namespace {

constexpr uint64_t kMinMemoryBytes = uint64_t{16} << 20;
constexpr size_t kMaxDiskId = 20;  // VIRTIO_BLK_ID_BYTES
static_assert(kMaxDisks + kOtherVirtioDevices <= kMaxVirtioDevices);

absl::Status Wrong(absl::string_view part, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(part, ": ", why));
}

absl::Status CheckMemory(const MachineConfig& config, const PartNames& names) {
  const uint64_t bytes = config.memory_bytes;
  if (bytes < kMinMemoryBytes || bytes > kMaxGuestMemoryBytes) {
    return Wrong(names.memory, absl::StrCat(FormatByteSize(bytes), " is not in ", FormatByteSize(kMinMemoryBytes),
                                            " to ", FormatByteSize(kMaxGuestMemoryBytes)));
  }
  if (const uint64_t page = HostPageBytes(config.memory_backing); bytes % page != 0) {
    return Wrong(names.memory, absl::StrCat(FormatByteSize(bytes), " is not a multiple of ", FormatByteSize(page),
                                            ", the page size of ", names.memory_backing, " ",
                                            MemoryBackingName(config.memory_backing)));
  }
  return absl::OkStatus();
}

absl::Status CheckBalloon(uint64_t bytes, const MachineConfig& config, const PartNames& names) {
  if (bytes % kPageBytes != 0) {
    return Wrong(names.balloon, absl::StrCat(FormatByteSize(bytes), " is not a multiple of ", kPageBytes));
  }
  if (bytes > config.memory_bytes) {
    return Wrong(names.balloon, absl::StrCat(FormatByteSize(bytes), " is more than the machine's ",
                                             FormatByteSize(config.memory_bytes), " of memory"));
  }
  return absl::OkStatus();
}

absl::Status CheckDisks(const MachineConfig& config, const PartNames& names) {
  if (config.disks.size() > kMaxDisks) {
    return Wrong(names.disk, absl::StrCat("a machine has at most ", kMaxDisks, " disks"));
  }
  absl::flat_hash_set<absl::string_view> ids;
  for (const DiskConfig& disk : config.disks) {
    const bool characters_ok = std::all_of(disk.id.begin(), disk.id.end(), [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
    });
    if (disk.id.empty() || disk.id.size() > kMaxDiskId || !characters_ok) {
      return Wrong(names.disk, absl::StrCat("disk id \"", absl::CHexEscape(disk.id), "\": use 1 to ", kMaxDiskId,
                                            " of the characters A-Z a-z 0-9 _ -"));
    }
    if (!ids.insert(disk.id).second) {
      return Wrong(names.disk, absl::StrCat("two disks have the id ", disk.id));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckMachineConfig(const MachineConfig& config, const PartNames& names) {
  if (config.cpus < 1 || config.cpus > kMaxCpus) {
    return Wrong(names.cpus, absl::StrCat(config.cpus, " is not in 1 to ", kMaxCpus));
  }
  FERRITE_RETURN_IF_ERROR(CheckMemory(config, names));
  if (config.balloon_bytes.has_value()) {
    FERRITE_RETURN_IF_ERROR(CheckBalloon(*config.balloon_bytes, config, names));
  }
  if (config.command_line.size() > kMaxKernelCommandLine) {
    return Wrong(names.command_line, absl::StrCat(config.command_line.size(),
                                                  " bytes are more than the kernel's limit, ", kMaxKernelCommandLine));
  }
  if (config.command_line.find('\0') != std::string::npos) {
    return Wrong(names.command_line, "it has an end in its middle");
  }
  return CheckDisks(config, names);
}

absl::Status CheckHostHasMemory(const MachineConfig& config, const HostMemory& host, const PartNames& names) {
  if (config.memory_bytes > host.bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(names.memory, ": ", FormatByteSize(config.memory_bytes),
                                                     " is more than this host's ", RoundedByteSize(host.bytes),
                                                     " with swap"));
  }
  return absl::OkStatus();
}

absl::Status CheckHostHas(const MachineConfig& config, const HostLimits& host, const PartNames& names) {
  if (config.cpus > host.max_vcpus) {
    return absl::FailedPreconditionError(
        absl::StrCat(names.cpus, ": ", config.cpus, " are more than this host's KVM allows, ", host.max_vcpus));
  }
  return CheckHostHasMemory(config, host.memory, names);
}

}  // namespace ferrite
