#include "vmm/kvm/vm.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/status.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace ferrite {
namespace {

// Four pages below the BIOS area at the top of 4 GiB, where no RAM and no device of ours is: KVM on older Intel
// processors keeps a page table and a task segment there (KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR).
constexpr uint64_t kIdentityMapAddress = 0xfffb'c000;
constexpr unsigned long kTssAddress = 0xfffb'd000;

absl::Status EnableCap(int fd, uint32_t capability, uint64_t argument, absl::string_view name) {
  kvm_enable_cap request = {.cap = capability, .args = {argument}};
  return KvmIoctl(fd, KVM_ENABLE_CAP, &request, absl::StrCat("KVM_ENABLE_CAP of ", name));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvmVm>> KvmVm::Create(const Kvm& kvm, DirtyMode mode,
                                                     std::span<const KvmMemorySlot> slots, uint32_t ring_entries) {
  FERRITE_RETURN_IF_ERROR(kvm.capabilities().CheckRequired());
  Fd fd(KvmIoctlRaw(kvm.fd(), KVM_CREATE_VM, 0));
  if (!fd.valid()) {
    return ErrnoStatus("KVM_CREATE_VM");
  }
  std::unique_ptr<KvmVm> vm(new KvmVm(kvm, std::move(fd), mode));
  FERRITE_RETURN_IF_ERROR(vm->SetUpDirtyTracking(ring_entries));
  // Slots come before the interrupt controllers and the timer, which Linux 6.18 and newer put on their bus by
  // call_srcu(): a slot that is made behind that waits for the end of its grace period, 6 to 10 ms.
  for (const KvmMemorySlot& slot : slots) {
    FERRITE_RETURN_IF_ERROR(vm->SetSlot(slot));
  }
  FERRITE_RETURN_IF_ERROR(vm->CreateIrqchips());
  vm->EnableTripleFaultEvent();
  return vm;
}

absl::Status KvmVm::CreateIrqchips() const {
  // All before the first vCPU, whose local APIC is made with it.
  uint64_t identity_map = kIdentityMapAddress;
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map, "KVM_SET_IDENTITY_MAP_ADDR"));
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd(), KVM_SET_TSS_ADDR, kTssAddress, "KVM_SET_TSS_ADDR"));
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd(), KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP"));
  // The kernel answers port 0x61, too: guests that calibrate with the timer read its output there.
  kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
  return KvmIoctl(fd(), KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2");
}

absl::Status KvmVm::SetUpDirtyTracking(uint32_t ring_entries) {
  const KvmCapabilities& capabilities = kvm_.capabilities();
  if (mode_ == DirtyMode::kRing) {
    const uint32_t offered = capabilities.value(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) / sizeof(kvm_dirty_gfn);
    if (offered == 0) {
      return absl::UnimplementedError(
          "this host's KVM has no dirty ring (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, Linux 6.1 or newer): use the dirty log");
    }
    ring_entries_ = std::min(offered, ring_entries);
    // Without manual protect: with it the kernel would not protect the pages when the ring is turned on.
    return EnableCap(fd(), KVM_CAP_DIRTY_LOG_RING_ACQ_REL, ring_entries_ * sizeof(kvm_dirty_gfn), "the dirty ring");
  }
  const uint64_t offered = capabilities.value(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
  const uint64_t wanted = offered & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
  if ((wanted & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) == 0) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(
      EnableCap(fd(), KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, wanted, "manual protect of the dirty log"));
  manual_protect_ = true;
  starts_all_dirty_ = (wanted & KVM_DIRTY_LOG_INITIALLY_SET) != 0;
  return absl::OkStatus();
}

void KvmVm::EnableTripleFaultEvent() const {
  if (!kvm_.capabilities().has(KVM_CAP_X86_TRIPLE_FAULT_EVENT)) {
    return;
  }
  if (const absl::Status status = EnableCap(fd(), KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, "the triple fault event");
      !status.ok()) {
    Log().warn("{}; going on without it", status.ToString());
  }
}

int KvmVm::CheckExtension(int capability) const {
  return std::max(0, KvmIoctlRaw(fd(), KVM_CHECK_EXTENSION, capability));
}

absl::Status KvmVm::SetSlot(const KvmMemorySlot& slot) {
  kvm_userspace_memory_region region = {.slot = slot.slot,
                                        .flags = slot.log_dirty ? uint32_t{KVM_MEM_LOG_DIRTY_PAGES} : 0,
                                        .guest_phys_addr = slot.base.value(),
                                        .memory_size = slot.host.size(),
                                        .userspace_addr = reinterpret_cast<uint64_t>(slot.host.data())};
  return KvmIoctl(fd(), KVM_SET_USER_MEMORY_REGION, &region,
                  absl::StrCat("KVM_SET_USER_MEMORY_REGION of slot ", slot.slot));
}

absl::Status KvmVm::GetDirtyLog(uint32_t slot, std::span<uint64_t> words) const {
  kvm_dirty_log request = {.slot = slot, .dirty_bitmap = words.data()};
  return KvmIoctl(fd(), KVM_GET_DIRTY_LOG, &request, absl::StrCat("KVM_GET_DIRTY_LOG of slot ", slot));
}

absl::Status KvmVm::ClearDirtyLog(uint32_t slot, uint64_t first_page, uint32_t pages,
                                  std::span<const uint64_t> words) const {
  FERRITE_CHECK(words.size() * 64 >= pages);
  kvm_clear_dirty_log request = {.slot = slot, .num_pages = pages, .first_page = first_page};
  request.dirty_bitmap = const_cast<uint64_t*>(words.data());
  return KvmIoctl(fd(), KVM_CLEAR_DIRTY_LOG, &request, absl::StrCat("KVM_CLEAR_DIRTY_LOG of slot ", slot));
}

absl::StatusOr<uint32_t> KvmVm::ResetDirtyRings() const {
  const int pages = KvmIoctlRaw(fd(), KVM_RESET_DIRTY_RINGS, 0);
  if (pages < 0) {
    return ErrnoStatus("KVM_RESET_DIRTY_RINGS");
  }
  return pages;
}

absl::Status KvmVm::AddIrqFd(int event_fd, uint32_t gsi) const {
  kvm_irqfd request = {.fd = static_cast<uint32_t>(event_fd), .gsi = gsi};
  return KvmIoctl(fd(), KVM_IRQFD, &request, absl::StrCat("KVM_IRQFD for interrupt ", gsi));
}

absl::Status KvmVm::LowerIrqLine(uint32_t gsi) const {
  kvm_irq_level request = {};
  request.irq = gsi;
  return KvmIoctl(fd(), KVM_IRQ_LINE, &request, absl::StrCat("KVM_IRQ_LINE for interrupt ", gsi));
}

absl::Status KvmVm::AddIoEventFd(int event_fd, GuestAddress address, uint32_t bytes,
                                 std::optional<uint64_t> match) const {
  kvm_ioeventfd request = {.datamatch = match.value_or(0),
                           .addr = address.value(),
                           .len = bytes,
                           .fd = event_fd,
                           .flags = match.has_value() ? 1u << kvm_ioeventfd_flag_nr_datamatch : 0u};
  return KvmIoctl(fd(), KVM_IOEVENTFD, &request, absl::StrCat("KVM_IOEVENTFD at 0x", absl::Hex(address.value())));
}

absl::StatusOr<std::unique_ptr<KvmVcpu>> KvmVm::CreateVcpu(uint32_t index) const {
  Fd vcpu(KvmIoctlRaw(fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
  if (!vcpu.valid()) {
    const int error = errno;
    const int most = kvm_.capabilities().value(KVM_CAP_MAX_VCPUS);
    return ErrnoStatus(error, absl::StrCat("KVM_CREATE_VCPU ", index, " (this host allows ", most, ")"));
  }
  FERRITE_ASSIGN_OR_RETURN(Mapping run_page,
                           Mapping::Create("the vCPU's run page", kvm_.run_bytes(), MAP_SHARED, vcpu.get()));
  std::optional<DirtyRing> ring;
  if (ring_entries_ > 0) {
    FERRITE_ASSIGN_OR_RETURN(ring, DirtyRing::Create(vcpu.get(), ring_entries_));
  }
  const size_t xsave_bytes = std::max<size_t>(sizeof(kvm_xsave), CheckExtension(KVM_CAP_XSAVE2));
  auto result = std::make_unique<KvmVcpu>(index, std::move(vcpu), std::move(run_page), std::move(ring), xsave_bytes);
  if (kvm_.capabilities().has(KVM_CAP_MCE)) {
    FERRITE_RETURN_IF_ERROR(result->SetUpMachineCheck(kvm_.fd()));
  }
  return result;
}

absl::StatusOr<kvm_irqchip> KvmVm::GetIrqchip(uint32_t chip) const {
  kvm_irqchip state = {.chip_id = chip};
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd(), KVM_GET_IRQCHIP, &state, absl::StrCat("KVM_GET_IRQCHIP ", chip)));
  return state;
}

absl::Status KvmVm::SetIrqchip(kvm_irqchip chip) const {
  return KvmIoctl(fd(), KVM_SET_IRQCHIP, &chip, absl::StrCat("KVM_SET_IRQCHIP ", chip.chip_id));
}

absl::StatusOr<kvm_pit_state2> KvmVm::GetPit() const {
  kvm_pit_state2 pit = {};
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd(), KVM_GET_PIT2, &pit, "KVM_GET_PIT2"));
  return pit;
}

absl::Status KvmVm::SetPit(const kvm_pit_state2& pit) const {
  return KvmIoctl(fd(), KVM_SET_PIT2, const_cast<kvm_pit_state2*>(&pit), "KVM_SET_PIT2");
}

absl::StatusOr<kvm_clock_data> KvmVm::GetClock() const {
  kvm_clock_data clock = {};
  FERRITE_RETURN_IF_ERROR(KvmIoctl(fd(), KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK"));
  return clock;
}

absl::Status KvmVm::SetClock(const kvm_clock_data& clock) const {
  return KvmIoctl(fd(), KVM_SET_CLOCK, const_cast<kvm_clock_data*>(&clock), "KVM_SET_CLOCK");
}

}  // namespace ferrite
