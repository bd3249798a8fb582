#include "vmm/kvm/kvm.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/kvm/permission_hint.h"

namespace ferrite {
namespace {

absl::Status OpenError(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return absl::NotFoundError(absl::StrCat(path, ": ", strerror(error),
                                              "; load the module (modprobe kvm_intel or kvm_amd) and enable "
                                              "virtualisation (VT-x, AMD-V) in the firmware or the outer machine"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat(path, ": no permission; ", PermissionHint(path)));
    default:
      return ErrnoStatus(error, absl::StrCat("open ", path));
  }
}

absl::StatusOr<std::vector<kvm_cpuid_entry2>> ReadSupportedCpuid(int fd) {
  // E2BIG asks for more room; the kernel itself knows at most KVM_MAX_CPUID_ENTRIES (256).
  for (uint32_t room = 128; room <= 1024; room *= 2) {
    std::vector<uint8_t> buffer(sizeof(kvm_cpuid2) + room * sizeof(kvm_cpuid_entry2));
    auto* list = reinterpret_cast<kvm_cpuid2*>(buffer.data());
    list->nent = room;
    if (KvmIoctlRaw(fd, KVM_GET_SUPPORTED_CPUID, list) == 0) {
      return std::vector<kvm_cpuid_entry2>(list->entries, list->entries + list->nent);
    }
    if (errno != E2BIG) {
      return ErrnoStatus("KVM_GET_SUPPORTED_CPUID");
    }
  }
  return ErrnoStatus(E2BIG, "KVM_GET_SUPPORTED_CPUID");
}

absl::StatusOr<std::vector<uint32_t>> ReadMsrIndices(int fd) {
  kvm_msr_list count = {};
  if (KvmIoctlRaw(fd, KVM_GET_MSR_INDEX_LIST, &count) != 0 && errno != E2BIG) {
    return ErrnoStatus("KVM_GET_MSR_INDEX_LIST");
  }
  std::vector<uint32_t> buffer(1 + count.nmsrs);
  auto* list = reinterpret_cast<kvm_msr_list*>(buffer.data());
  list->nmsrs = count.nmsrs;
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd, KVM_GET_MSR_INDEX_LIST, list, "KVM_GET_MSR_INDEX_LIST"));
  return std::vector<uint32_t>(list->indices, list->indices + list->nmsrs);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Kvm>> Kvm::Open(const std::string& path) {
  Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) {
    return OpenError(path, errno);
  }
  const int version = KvmIoctlRaw(fd.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is not KVM's device (KVM_GET_API_VERSION: ", strerror(errno), "); the device is usually /dev/kvm"));
  }
  if (version != KVM_API_VERSION) {
    return absl::UnimplementedError(absl::StrCat(path, " speaks KVM API version ", version, ", ferrite needs ",
                                                 KVM_API_VERSION, ": use a Linux kernel of 5.10 or newer"));
  }
  KvmCapabilities capabilities([&fd](int number) { return KvmIoctlRaw(fd.get(), KVM_CHECK_EXTENSION, number); });
  FERRITE_ASSIGN_OR_RETURN(std::vector<kvm_cpuid_entry2> cpuid, ReadSupportedCpuid(fd.get()));
  FERRITE_ASSIGN_OR_RETURN(std::vector<uint32_t> msrs, ReadMsrIndices(fd.get()));
  const int run_bytes = KvmIoctlRaw(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) {
    return run_bytes < 0 ? ErrnoStatus("KVM_GET_VCPU_MMAP_SIZE")
                         : absl::InternalError(absl::StrCat("KVM_GET_VCPU_MMAP_SIZE: ", run_bytes, " is too small"));
  }
  return std::unique_ptr<Kvm>(
      new Kvm(std::move(fd), std::move(capabilities), std::move(cpuid), std::move(msrs), run_bytes));
}

}  // namespace ferrite
