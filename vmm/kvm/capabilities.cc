#include "vmm/kvm/capabilities.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {
namespace {

constexpr bool kRequired = true;
constexpr bool kOptional = false;
constexpr const char* kAnyKernel = "any kernel since 3.6 built for x86 has it: is this KVM complete?";
constexpr const char* kIrqchip = "a kernel that emulates the interrupt controllers (CONFIG_KVM_IOAPIC since 6.16)";

// clang-format off
constexpr KvmCapability kTable[] = {
    {"KVM_CAP_USER_MEMORY", KVM_CAP_USER_MEMORY, kRequired, "guest memory", kAnyKernel},
    {"KVM_CAP_IRQCHIP", KVM_CAP_IRQCHIP, kRequired, "the guest's interrupt controllers", kIrqchip},
    {"KVM_CAP_PIT2", KVM_CAP_PIT2, kRequired, "the guest's timer at start", kIrqchip},
    {"KVM_CAP_PIT_STATE2", KVM_CAP_PIT_STATE2, kRequired, "saving the timer", kIrqchip},
    {"KVM_CAP_IRQFD", KVM_CAP_IRQFD, kRequired, "interrupts of devices", "CONFIG_EVENTFD in the kernel"},
    {"KVM_CAP_IOEVENTFD", KVM_CAP_IOEVENTFD, kRequired, "doorbells of devices", "CONFIG_EVENTFD in the kernel"},
    {"KVM_CAP_EXT_CPUID", KVM_CAP_EXT_CPUID, kRequired, "telling the guest what its processor can do", kAnyKernel},
    {"KVM_CAP_MP_STATE", KVM_CAP_MP_STATE, kRequired, "saving a processor that waits", kAnyKernel},
    {"KVM_CAP_VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, kRequired, "saving pending exceptions", kAnyKernel},
    {"KVM_CAP_DEBUGREGS", KVM_CAP_DEBUGREGS, kRequired, "saving debug registers", kAnyKernel},
    {"KVM_CAP_XSAVE", KVM_CAP_XSAVE, kRequired, "saving vector registers", kAnyKernel},
    {"KVM_CAP_XCRS", KVM_CAP_XCRS, kRequired, "saving vector registers", kAnyKernel},
    {"KVM_CAP_ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK, kRequired, "saving the guest's clock", kAnyKernel},
    {"KVM_CAP_SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR, kRequired, "real mode on older Intel processors", kAnyKernel},
    {"KVM_CAP_SET_IDENTITY_MAP_ADDR", KVM_CAP_SET_IDENTITY_MAP_ADDR, kRequired,
     "protected mode without paging on older Intel processors", kAnyKernel},
    {"KVM_CAP_IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT, kRequired, "pausing a guest", "Linux 4.13 or newer"},
    {"KVM_CAP_NR_VCPUS", KVM_CAP_NR_VCPUS, kOptional, "the recommended number of vCPUs is unknown", kAnyKernel},
    {"KVM_CAP_MAX_VCPUS", KVM_CAP_MAX_VCPUS, kRequired, "several vCPUs", kAnyKernel},
    {"KVM_CAP_NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS, kRequired, "guest memory", kAnyKernel},
    {"KVM_CAP_INTERNAL_ERROR_DATA", KVM_CAP_INTERNAL_ERROR_DATA, kOptional, "details of what KVM could not do",
     "Linux 2.6.34 or newer"},
    {"KVM_CAP_TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER, kOptional, "the guest's cheaper timer",
     "a processor with the TSC deadline timer"},
    {"KVM_CAP_TSC_CONTROL", KVM_CAP_TSC_CONTROL, kOptional,
     "moving guests between hosts of different clock frequency", "a processor with TSC scaling"},
    {"KVM_CAP_GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ, kOptional, "checking that a moved guest's clock keeps its frequency",
     "a processor with a constant TSC"},
    {"KVM_CAP_KVMCLOCK_CTRL", KVM_CAP_KVMCLOCK_CTRL, kOptional, "a pause may trip the guest's watchdog",
     "Linux 3.5 or newer"},
    {"KVM_CAP_MCE", KVM_CAP_MCE, kOptional, "telling the guest of broken memory", "CONFIG_X86_MCE in the kernel"},
    {"KVM_CAP_XSAVE2", KVM_CAP_XSAVE2, kOptional, "vector registers larger than 4 KiB (AMX)", "Linux 5.17 or newer"},
    {"KVM_CAP_X86_TRIPLE_FAULT_EVENT", KVM_CAP_X86_TRIPLE_FAULT_EVENT, kOptional,
     "a triple fault in the instant of a save is lost", "Linux 6.1 or newer"},
    {"KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, kOptional,
     "the guest stalls longer when the dirty log of a move is read", "Linux 5.7 or newer"},
    {"KVM_CAP_DIRTY_LOG_RING_ACQ_REL", KVM_CAP_DIRTY_LOG_RING_ACQ_REL, kOptional, "the dirty ring (the log is used)",
     "Linux 6.1 or newer"},
    {"KVM_CAP_MEMORY_FAULT_INFO", KVM_CAP_MEMORY_FAULT_INFO, kOptional,
     "the address of memory that the host cannot give", "Linux 6.8 or newer"},
    {"KVM_CAP_PRE_FAULT_MEMORY", KVM_CAP_PRE_FAULT_MEMORY, kOptional,
     "a moved guest's first touch of each page is slower", "Linux 6.11 or newer with two-dimensional paging"},
};
// clang-format on

}  // namespace

KvmCapabilities::KvmCapabilities(const std::function<int(int)>& check) : rows_(std::begin(kTable), std::end(kTable)) {
  for (KvmCapability& row : rows_) {
    row.value = std::max(0, check(row.number));
  }
}

int KvmCapabilities::value(int number) const {
  const auto row = std::find_if(rows_.begin(), rows_.end(),
                                [number](const KvmCapability& candidate) { return candidate.number == number; });
  FERRITE_CHECK(row != rows_.end());
  return row->value;
}

absl::Status KvmCapabilities::CheckRequired() const {
  std::vector<std::string> missing;
  for (const KvmCapability& row : rows_) {
    if (row.required && row.value == 0) {
      missing.push_back(absl::StrCat(row.name, " (", row.lost, "; needs ", row.how_to_get, ")"));
    }
  }
  if (missing.empty()) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat("this host's KVM lacks ", absl::StrJoin(missing, ", ")));
}

}  // namespace ferrite
