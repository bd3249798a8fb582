#include "vmm/kvm/msr_names.h"

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

struct Name {
  uint32_t index;
  const char* name;
};
constexpr Name kNames[] = {
    {kMsrTsc, "TSC"},
    {0x11, "KVM_WALL_CLOCK"},
    {0x12, "KVM_SYSTEM_TIME"},
    {0x34, "SMI_COUNT"},
    {0x3a, "FEATURE_CONTROL"},
    {0x3b, "TSC_ADJUST"},
    {0x48, "SPEC_CTRL"},
    {0x8b, "UCODE_REV"},
    {0xce, "PLATFORM_INFO"},
    {0xe1, "UMWAIT_CONTROL"},
    {0x10a, "ARCH_CAPABILITIES"},
    {0x122, "TSX_CTRL"},
    {0x140, "MISC_FEATURES_ENABLES"},
    {0x174, "SYSENTER_CS"},
    {0x175, "SYSENTER_ESP"},
    {0x176, "SYSENTER_EIP"},
    {0x17a, "MCG_STATUS"},
    {0x17b, "MCG_CTL"},
    {0x1a0, "MISC_ENABLE"},
    {0x1c4, "XFD"},
    {0x1c5, "XFD_ERR"},
    {0x1d9, "DEBUGCTL"},
    {0x1fc, "POWER_CTL"},
    {0x277, "PAT"},
    {0x2ff, "MTRR_DEF_TYPE"},
    {0x345, "PERF_CAPABILITIES"},
    {kMsrTscDeadline, "TSC_DEADLINE"},
    {0xd90, "BNDCFGS"},
    {0xda0, "XSS"},
    {0x4b56'4d00, "KVM_WALL_CLOCK_NEW"},
    {0x4b56'4d01, "KVM_SYSTEM_TIME_NEW"},
    {0x4b56'4d02, "KVM_ASYNC_PF_EN"},
    {0x4b56'4d03, "KVM_STEAL_TIME"},
    {0x4b56'4d04, "KVM_PV_EOI_EN"},
    {0x4b56'4d05, "KVM_POLL_CONTROL"},
    {0x4b56'4d06, "KVM_ASYNC_PF_INT"},
    {0x4b56'4d07, "KVM_ASYNC_PF_ACK"},
    {0xc000'0081, "STAR"},
    {0xc000'0082, "LSTAR"},
    {0xc000'0083, "CSTAR"},
    {0xc000'0084, "SYSCALL_MASK"},
    {0xc000'0102, "KERNEL_GS_BASE"},
    {0xc000'0103, "TSC_AUX"},
    {0xc000'0104, "AMD_TSC_RATIO"},
    {0xc001'0015, "K7_HWCR"},
    {0xc001'0117, "VM_HSAVE_PA"},
    {0xc001'011f, "VIRT_SPEC_CTRL"},
};

}  // namespace

std::string MsrName(uint32_t index) {
  for (const Name& entry : kNames) {
    if (entry.index == index) {
      return absl::StrCat(entry.name, " (0x", absl::Hex(index), ")");
    }
  }
  return absl::StrCat("MSR 0x", absl::Hex(index));
}

}  // namespace ferrite
