#include "vmm/machine/vcpu_setup.h"

#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "vmm/kvm/cpuid.h"

namespace ferrite {
namespace {

kvm_segment ToKvm(const SegmentRegister& segment) {
  return {.base = segment.base,
          .limit = segment.limit,
          .selector = segment.selector,
          .type = segment.type,
          .present = segment.present,
          .dpl = segment.dpl,
          .db = segment.default_32bit,
          .s = segment.code_or_data,
          .l = segment.long_mode,
          .g = segment.page_granular,
          .avl = segment.available,
          .unusable = !segment.present};
}

kvm_dtable ToKvm(const DescriptorTableRegister& table) { return {.base = table.base, .limit = table.limit}; }

}  // namespace

std::vector<kvm_cpuid_entry2> CpuidOnThisHost(const Kvm& kvm, uint32_t index, uint32_t count) {
  return GuestCpuid(
      kvm.supported_cpuid(),
      {.index = index, .count = count, .tsc_deadline = kvm.capabilities().has(KVM_CAP_TSC_DEADLINE_TIMER)});
}

absl::Status SetUpVcpu(const Kvm& kvm, KvmVcpu& vcpu, uint32_t cpu_count) {
  FERRITE_RETURN_IF_ERROR(vcpu.SetCpuid(CpuidOnThisHost(kvm, vcpu.index(), cpu_count)));
  // Linux takes a processor whose MTRRs are off for one without a working PAT.
  constexpr uint32_t kMtrrDefType = 0x2ff;
  constexpr uint64_t kEnabledWriteBack = 1 << 11 | 6;
  const kvm_msr_entry memory_types = {.index = kMtrrDefType, .reserved = 0, .data = kEnabledWriteBack};
  FERRITE_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> refused, vcpu.SetMsrs({&memory_types, 1}));
  if (!refused.empty()) {
    Log().info("vCPU {}: this host's KVM has no memory type registers", vcpu.index());
  }
  return absl::OkStatus();
}

absl::Status EnterKernel(KvmVcpu& vcpu, const BootEntry& entry) {
  FERRITE_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.GetSregs());
  sregs.cs = ToKvm(entry.cs);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = ToKvm(entry.data);
  sregs.tr = ToKvm(entry.tr);
  sregs.ldt = ToKvm(entry.ldt);
  sregs.gdt = ToKvm(entry.gdt);
  sregs.idt = ToKvm(entry.idt);
  sregs.cr0 = entry.cr0;
  sregs.cr3 = entry.cr3;
  sregs.cr4 = entry.cr4;
  sregs.efer = entry.efer;
  FERRITE_RETURN_IF_ERROR(vcpu.SetSregs(sregs));
  return vcpu.SetRegs({.rbx = entry.rbx, .rsi = entry.rsi, .rsp = entry.rsp, .rip = entry.rip, .rflags = entry.rflags});
}

}  // namespace ferrite
