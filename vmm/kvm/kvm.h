// /dev/kvm: the host's virtualisation, opened and checked.
#ifndef FERRITE_VMM_KVM_KVM_H_
#define FERRITE_VMM_KVM_KVM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "vmm/kvm/capabilities.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {

// What is the same for all VMs of this host. Immutable once open: any thread may use it.
class Kvm {
 public:
  // Opens `path` and reads the tables below. Errors say what to do: NOT_FOUND when KVM is not there, PERMISSION_DENIED
  // (PermissionHint), UNIMPLEMENTED for another API version than 12. A missing required capability is no error
  // here, so that `doctor` can print the table: KvmVm::Create() refuses.
  static absl::StatusOr<std::unique_ptr<Kvm>> Open(const std::string& path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  const KvmCapabilities& capabilities() const { return capabilities_; }
  // KVM_GET_SUPPORTED_CPUID: what a guest may be told.
  std::span<const kvm_cpuid_entry2> supported_cpuid() const { return supported_cpuid_; }
  // KVM_GET_MSR_INDEX_LIST: the registers that make up a vCPU's state.
  std::span<const uint32_t> msr_indices() const { return msr_indices_; }
  // KVM_GET_VCPU_MMAP_SIZE.
  size_t run_bytes() const { return run_bytes_; }

 private:
  Kvm(Fd fd, KvmCapabilities capabilities, std::vector<kvm_cpuid_entry2> cpuid, std::vector<uint32_t> msrs,
      size_t run_bytes)
      : fd_(std::move(fd)),
        capabilities_(std::move(capabilities)),
        supported_cpuid_(std::move(cpuid)),
        msr_indices_(std::move(msrs)),
        run_bytes_(run_bytes) {}

  Fd fd_;
  KvmCapabilities capabilities_;
  std::vector<kvm_cpuid_entry2> supported_cpuid_;
  std::vector<uint32_t> msr_indices_;
  size_t run_bytes_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_KVM_H_
