#include "vmm/machine/host_limits.h"

#include <sys/sysinfo.h>

#include "base/status.h"

namespace ferrite {

absl::StatusOr<HostMemory> ReadHostMemory() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) {
    return ErrnoStatus("read the host's memory size");
  }
  return HostMemory{.bytes = (uint64_t{info.totalram} + info.totalswap) * info.mem_unit,
                    .swap_bytes = uint64_t{info.totalswap} * info.mem_unit};
}

absl::StatusOr<HostLimits> ReadHostLimits(const Kvm& kvm) {
  FERRITE_ASSIGN_OR_RETURN(const HostMemory memory, ReadHostMemory());
  const KvmCapabilities& capabilities = kvm.capabilities();
  return HostLimits{.max_vcpus = static_cast<uint32_t>(capabilities.value(KVM_CAP_MAX_VCPUS)),
                    .cpuid = {kvm.supported_cpuid().begin(), kvm.supported_cpuid().end()},
                    .tsc_deadline = capabilities.has(KVM_CAP_TSC_DEADLINE_TIMER),
                    .memory = memory};
}

}  // namespace ferrite
