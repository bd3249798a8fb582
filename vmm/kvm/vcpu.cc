#include "vmm/kvm/vcpu.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace ferrite {
namespace {

// A kernel structure that ends in an array of `count` elements.
template <typename Header>
std::vector<uint64_t> FlexibleBuffer(size_t element_bytes, size_t count) {
  return std::vector<uint64_t>((sizeof(Header) + element_bytes * count + 7) / 8);
}

kvm_device_attr TscOffsetAttribute(uint64_t* offset) {
  return {
      .flags = 0, .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = reinterpret_cast<uint64_t>(offset)};
}

}  // namespace

template <typename T>
absl::StatusOr<T> KvmVcpu::Get(unsigned long request, const char* name) const {
  T value = {};
  if (KvmIoctlRaw(fd_.get(), request, &value) < 0) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": ", name));
  }
  return value;
}

template <typename T>
absl::Status KvmVcpu::Set(unsigned long request, const T& value, const char* name) const {
  // The kernel only reads it, though ioctl(2) takes no pointer to const.
  if (KvmIoctlRaw(fd_.get(), request, const_cast<T*>(&value)) < 0) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": ", name));
  }
  return absl::OkStatus();
}

int KvmVcpu::Run() { return ioctl(fd_.get(), KVM_RUN, 0) < 0 ? errno : 0; }

void KvmVcpu::RequestExit(bool requested) {
  __atomic_store_n(&run().immediate_exit, uint8_t{requested}, __ATOMIC_SEQ_CST);
}

absl::Status KvmVcpu::SetCpuid(std::span<const kvm_cpuid_entry2> entries) {
  auto buffer = FlexibleBuffer<kvm_cpuid2>(sizeof(kvm_cpuid_entry2), entries.size());
  auto* list = reinterpret_cast<kvm_cpuid2*>(buffer.data());
  list->nent = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), list->entries);
  if (KvmIoctlRaw(fd_.get(), KVM_SET_CPUID2, list) < 0) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": KVM_SET_CPUID2"));
  }
  cpuid_.assign(entries.begin(), entries.end());
  return absl::OkStatus();
}

absl::StatusOr<kvm_regs> KvmVcpu::GetRegs() const { return Get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS"); }
absl::Status KvmVcpu::SetRegs(const kvm_regs& regs) const { return Set(KVM_SET_REGS, regs, "KVM_SET_REGS"); }
absl::StatusOr<kvm_sregs> KvmVcpu::GetSregs() const { return Get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS"); }
absl::Status KvmVcpu::SetSregs(const kvm_sregs& sregs) const { return Set(KVM_SET_SREGS, sregs, "KVM_SET_SREGS"); }
absl::StatusOr<kvm_mp_state> KvmVcpu::GetMpState() const {
  return Get<kvm_mp_state>(KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
}
absl::Status KvmVcpu::SetMpState(const kvm_mp_state& state) const {
  return Set(KVM_SET_MP_STATE, state, "KVM_SET_MP_STATE");
}
absl::StatusOr<kvm_xcrs> KvmVcpu::GetXcrs() const { return Get<kvm_xcrs>(KVM_GET_XCRS, "KVM_GET_XCRS"); }
absl::Status KvmVcpu::SetXcrs(const kvm_xcrs& xcrs) const { return Set(KVM_SET_XCRS, xcrs, "KVM_SET_XCRS"); }
absl::StatusOr<kvm_debugregs> KvmVcpu::GetDebugRegs() const {
  return Get<kvm_debugregs>(KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
}
absl::Status KvmVcpu::SetDebugRegs(const kvm_debugregs& registers) const {
  return Set(KVM_SET_DEBUGREGS, registers, "KVM_SET_DEBUGREGS");
}
absl::StatusOr<kvm_lapic_state> KvmVcpu::GetLapic() const {
  return Get<kvm_lapic_state>(KVM_GET_LAPIC, "KVM_GET_LAPIC");
}
absl::Status KvmVcpu::SetLapic(const kvm_lapic_state& lapic) const {
  return Set(KVM_SET_LAPIC, lapic, "KVM_SET_LAPIC");
}
absl::StatusOr<kvm_vcpu_events> KvmVcpu::GetEvents() const {
  return Get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
}
absl::Status KvmVcpu::SetEvents(const kvm_vcpu_events& events) const {
  return Set(KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS");
}

absl::StatusOr<std::vector<uint8_t>> KvmVcpu::GetXsave() const {
  std::vector<uint8_t> area(xsave_bytes_);
  const bool large = xsave_bytes_ > sizeof(kvm_xsave);
  if (KvmIoctlRaw(fd_.get(), large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area.data()) < 0) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": ", large ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE"));
  }
  return area;
}

absl::Status KvmVcpu::SetXsave(std::span<const uint8_t> area) const {
  FERRITE_CHECK(area.size() == xsave_bytes_);
  if (KvmIoctlRaw(fd_.get(), KVM_SET_XSAVE, const_cast<uint8_t*>(area.data())) < 0) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": KVM_SET_XSAVE"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<kvm_msr_entry>> KvmVcpu::GetMsrs(std::span<const uint32_t> indices) const {
  std::vector<kvm_msr_entry> result;
  auto buffer = FlexibleBuffer<kvm_msrs>(sizeof(kvm_msr_entry), indices.size());
  auto* list = reinterpret_cast<kvm_msrs*>(buffer.data());
  // The kernel stops at the first register that it refuses and says how far it came: go on behind that one.
  while (!indices.empty()) {
    list->nmsrs = static_cast<uint32_t>(indices.size());
    for (size_t i = 0; i < indices.size(); ++i) {
      list->entries[i] = {.index = indices[i], .reserved = 0, .data = 0};
    }
    const int done = KvmIoctlRaw(fd_.get(), KVM_GET_MSRS, list);
    if (done < 0) {
      return ErrnoStatus(absl::StrCat("vCPU ", index_, ": KVM_GET_MSRS"));
    }
    result.insert(result.end(), list->entries, list->entries + done);
    indices = indices.subspan(std::min<size_t>(indices.size(), done + 1));
  }
  return result;
}

absl::StatusOr<std::vector<kvm_msr_entry>> KvmVcpu::SetMsrs(std::span<const kvm_msr_entry> entries) const {
  std::vector<kvm_msr_entry> refused;
  auto buffer = FlexibleBuffer<kvm_msrs>(sizeof(kvm_msr_entry), entries.size());
  auto* list = reinterpret_cast<kvm_msrs*>(buffer.data());
  while (!entries.empty()) {
    list->nmsrs = static_cast<uint32_t>(entries.size());
    std::copy(entries.begin(), entries.end(), list->entries);
    const int done = KvmIoctlRaw(fd_.get(), KVM_SET_MSRS, list);
    if (done < 0) {
      return ErrnoStatus(absl::StrCat("vCPU ", index_, ": KVM_SET_MSRS"));
    }
    if (static_cast<size_t>(done) < entries.size()) {
      refused.push_back(entries[done]);
    }
    entries = entries.subspan(std::min<size_t>(entries.size(), done + 1));
  }
  return refused;
}

absl::Status KvmVcpu::DisableGuestDebug() const {
  return Set(KVM_SET_GUEST_DEBUG, kvm_guest_debug{}, "KVM_SET_GUEST_DEBUG");
}

uint32_t KvmVcpu::ReadTscKhz() const { return std::max(0, KvmIoctlRaw(fd_.get(), KVM_GET_TSC_KHZ, 0)); }

absl::Status KvmVcpu::SetTscKhz(uint32_t khz) {
  if (KvmIoctlRaw(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)) < 0) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": KVM_SET_TSC_KHZ to ", khz));
  }
  tsc_khz_ = ReadTscKhz();
  return absl::OkStatus();
}

std::optional<uint64_t> KvmVcpu::GetTscOffset() const {
  uint64_t offset = 0;
  kvm_device_attr attribute = TscOffsetAttribute(&offset);
  if (KvmIoctlRaw(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute) < 0) {
    return std::nullopt;
  }
  return offset;
}

absl::Status KvmVcpu::SetTscOffset(uint64_t offset) const {
  return Set(KVM_SET_DEVICE_ATTR, TscOffsetAttribute(&offset), "KVM_SET_DEVICE_ATTR of the TSC offset");
}

absl::Status KvmVcpu::NotifyPaused() const {
  // EINVAL: the guest has no KVM clock (yet). ENOTTY: the kernel has no such call.
  if (KvmIoctlRaw(fd_.get(), KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL && errno != ENOTTY) {
    return ErrnoStatus(absl::StrCat("vCPU ", index_, ": KVM_KVMCLOCK_CTRL"));
  }
  return absl::OkStatus();
}

absl::Status KvmVcpu::SetUpMachineCheck(int kvm_fd) const {
  constexpr uint64_t kBanks = 10;
  constexpr uint64_t kControlPresent = uint64_t{1} << 8;     // MCG_CTL_P
  constexpr uint64_t kSoftwareRecovery = uint64_t{1} << 24;  // MCG_SER_P
  uint64_t supported = 0;
  FERRITE_RETURN_IF_ERROR(KvmIoctl(kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported, "KVM_X86_GET_MCE_CAP_SUPPORTED"));
  return Set(KVM_X86_SETUP_MCE, kBanks | (supported & (kControlPresent | kSoftwareRecovery)), "KVM_X86_SETUP_MCE");
}

absl::Status KvmVcpu::SetMachineCheck(const kvm_x86_mce& error) const {
  return Set(KVM_X86_SET_MCE, error, "KVM_X86_SET_MCE");
}

}  // namespace ferrite
