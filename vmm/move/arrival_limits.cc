#include "vmm/move/arrival_limits.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/byte_size.h"
#include "vmm/machine/device_kinds.h"

namespace ferrite {
namespace {

constexpr uint32_t kMaxCpuidLeaves = 256;  // KVM_MAX_CPUID_ENTRIES

struct Count {
  uint32_t has;
  uint32_t most;
  absl::string_view what;
};

uint32_t MostDevices() {
  uint32_t most = 2;  // serial0, power
  for (const DeviceKind& kind : DeviceKinds()) {
    most += kind.most;
  }
  return most;
}

}  // namespace

absl::Status CheckLimits(state::MachineDescription::Reader described, const ArrivalLimits& limits) {
  const Count counts[] = {
      {described.getCpus(), kMaxCpus, "vCPUs"},
      {described.getDevices().size(), MostDevices(), "devices"},
      {described.getDisks().size(), kMaxDisks, "disks"},
      {described.getCpuid().size(), kMaxCpuidLeaves, "CPUID leaves"},
      {static_cast<uint32_t>(described.getBoot().getCommandLine().size()), kMaxKernelCommandLine,
       "bytes of kernel command line"},
  };
  for (const Count& count : counts) {
    if (count.has > count.most) {
      return absl::FailedPreconditionError(
          absl::StrCat("the machine has ", count.has, " ", count.what, ", a machine here has at most ", count.most));
    }
  }
  if (described.getCpus() > limits.cpus) {
    return absl::FailedPreconditionError(absl::StrCat("the machine has ", described.getCpus(),
                                                      " vCPUs, `ferrite receive --max-cpus` allows ", limits.cpus));
  }
  if (const uint64_t bytes = described.getMemory().getBytes(); bytes > limits.memory_bytes) {
    return absl::FailedPreconditionError(absl::StrCat("the machine has ", FormatByteSize(bytes),
                                                      " of memory, `ferrite receive --max-mem` allows ",
                                                      FormatByteSize(limits.memory_bytes)));
  }
  return absl::OkStatus();
}

}  // namespace ferrite
