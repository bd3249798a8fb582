#include "vmm/machine/machine_check.h"

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "memory/guest_memory.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/platform.h"

namespace ferrite {
namespace {

constexpr uint64_t kMinMemoryBytes = uint64_t{16} << 20;

struct PartNames {
  absl::string_view cpus;
  absl::string_view memory;
  absl::string_view memory_backing;
  absl::string_view command_line;
};
constexpr PartNames kOptions = {
    .cpus = "--cpus", .memory = "--mem", .memory_backing = "--memory-backing", .command_line = "--cmdline"};
constexpr PartNames kWords = {.cpus = "the machine's vCPUs",
                              .memory = "the machine's memory",
                              .memory_backing = "its memory backing",
                              .command_line = "the machine's kernel command line"};

const PartNames& NamesOf(DescribedBy by) { return by == DescribedBy::kCommandLine ? kOptions : kWords; }

std::string PartOf(const DeviceKind& kind, DescribedBy by) {
  return by == DescribedBy::kCommandLine ? std::string(kind.option.name)
                                         : absl::StrCat("the machine's ", kind.most == 1 ? kind.label : kind.plural);
}

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

absl::Status CheckDevices(const MachineConfig& config, DescribedBy by) {
  if (config.devices.size() > kMaxVirtioDevices) {
    return absl::InvalidArgumentError(
        absl::StrCat("a machine has room for ", kMaxVirtioDevices, " devices, not for ", config.devices.size()));
  }
  absl::flat_hash_map<const DeviceKind*, uint32_t> counts;
  absl::flat_hash_set<std::string> names;
  for (const DeviceConfig& device : config.devices) {
    const DeviceKind& kind = KindOf(device);
    if (++counts[&kind] > kind.most) {
      return Wrong(PartOf(kind, by), kind.most == 1
                                         ? "a machine has one at most"
                                         : absl::StrCat("a machine has at most ", kind.most, " ", kind.plural));
    }
    if (const absl::Status status = kind.check(device, config); !status.ok()) {
      return Wrong(PartOf(kind, by), status.message());
    }
    if (!names.insert(DeviceName(device)).second) {
      return Wrong(PartOf(kind, by), absl::StrCat("two ", kind.plural, " have the id ", DeviceId(device)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckMachineConfig(const MachineConfig& config, DescribedBy by) {
  const PartNames& names = NamesOf(by);
  if (config.cpus < 1 || config.cpus > kMaxCpus) {
    return Wrong(names.cpus, absl::StrCat(config.cpus, " is not in 1 to ", kMaxCpus));
  }
  FERRITE_RETURN_IF_ERROR(CheckMemory(config, names));
  if (config.command_line.size() > kMaxKernelCommandLine) {
    return Wrong(names.command_line, absl::StrCat(config.command_line.size(),
                                                  " bytes are more than the kernel's limit, ", kMaxKernelCommandLine));
  }
  if (config.command_line.find('\0') != std::string::npos) {
    return Wrong(names.command_line, "it has an end in its middle");
  }
  return CheckDevices(config, by);
}

absl::Status CheckHostHasMemory(const MachineConfig& config, const HostMemory& host, DescribedBy by) {
  if (config.memory_bytes > host.bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(NamesOf(by).memory, ": ", FormatByteSize(config.memory_bytes),
                                                     " is more than this host's ", RoundedByteSize(host.bytes),
                                                     " with swap"));
  }
  return absl::OkStatus();
}

absl::Status CheckHostHas(const MachineConfig& config, const HostLimits& host, DescribedBy by) {
  if (config.cpus > host.max_vcpus) {
    return absl::FailedPreconditionError(
        absl::StrCat(NamesOf(by).cpus, ": ", config.cpus, " are more than this host's KVM allows, ", host.max_vcpus));
  }
  return CheckHostHasMemory(config, host.memory, by);
}

}  // namespace ferrite
