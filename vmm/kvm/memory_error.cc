#include "vmm/kvm/memory_error.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "vmm/kvm/cpuid.h"

namespace ferrite {
namespace {

constexpr uint64_t Bit(int number) { return uint64_t{1} << number; }

constexpr uint64_t kCr4MachineCheck = Bit(6);
constexpr uint32_t kMcgCap = 0x179;
constexpr uint64_t kSoftwareRecovery = Bit(24);  // MCG_SER_P
constexpr uint32_t kMcgStatus = 0x17a;
constexpr uint64_t kInProgress = Bit(2);  // MCIP
// RIPV, EIPV, MCIP: the instruction was not executed, so the guest may go on with it.
constexpr uint64_t kRecoverable = Bit(0) | Bit(1) | kInProgress;

// The bank that QEMU takes, too: no real processor's guest expects one of its own errors there.
constexpr uint8_t kBank = 9;
constexpr uint32_t kBankControl = 0x400 + 4 * kBank;
constexpr uint32_t kBankStatus = kBankControl + 1;

constexpr uint64_t kOverflow = Bit(62);
// VAL, UC, EN, MISCV, ADDRV.
constexpr uint64_t kUncorrected = Bit(63) | Bit(61) | Bit(60) | Bit(59) | Bit(58);
constexpr uint64_t kAmdStatus = kUncorrected | Bit(43);                      // POISON
constexpr uint64_t kIntelStatus = kUncorrected | Bit(56) | Bit(55) | 0x134;  // S, AR; a data load
// The address is a physical one, good to 4 KiB.
constexpr uint64_t kMisc = 2 << 6 | 12;

absl::Status CannotTake(const KvmVcpu& vcpu, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("vCPU ", vcpu.index(), " cannot take a machine check: ", why));
}

// A register that the kernel refuses reads as 0, as one that is not set up.
absl::StatusOr<uint64_t> ReadMsr(const KvmVcpu& vcpu, uint32_t index) {
  FERRITE_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> msrs, vcpu.GetMsrs({&index, 1}));
  return msrs.empty() ? 0 : msrs[0].data;
}

}  // namespace

absl::Status TellOfMemoryError(const KvmVcpu& vcpu, GuestAddress page) {
  const bool amd = IsAmd(vcpu.cpuid());
  // The kernel makes a triple fault of what these find, or says that all is well and does nothing.
  FERRITE_ASSIGN_OR_RETURN(const kvm_sregs sregs, vcpu.GetSregs());
  if ((sregs.cr4 & kCr4MachineCheck) == 0) {
    return CannotTake(vcpu, "the guest has not turned them on (CR4.MCE)");
  }
  FERRITE_ASSIGN_OR_RETURN(const uint64_t in_progress, ReadMsr(vcpu, kMcgStatus));
  if ((in_progress & kInProgress) != 0) {
    return CannotTake(vcpu, "it is in one still (MCG_STATUS.MCIP)");
  }
  FERRITE_ASSIGN_OR_RETURN(const uint64_t control, ReadMsr(vcpu, kBankControl));
  if (control == 0) {
    return CannotTake(vcpu, absl::StrCat("bank ", kBank, " is off"));
  }
  // An Intel guest that was not told of recovery returns to the instruction, again and again.
  FERRITE_ASSIGN_OR_RETURN(const uint64_t capabilities, ReadMsr(vcpu, kMcgCap));
  if (!amd && (capabilities & kSoftwareRecovery) == 0) {
    return CannotTake(vcpu, "this host's KVM offers no recovery (MCG_CAP.SER_P)");
  }
  // An AMD guest whose CPUID is older than lost pages: its kernel panics.
  if (amd && !CanRecoverFromErrors(vcpu.cpuid())) {
    return CannotTake(vcpu, "the guest's CPUID has no recovery (SUCCOR)");
  }
  kvm_x86_mce error = {};
  error.status = amd ? kAmdStatus : kIntelStatus;
  error.addr = page.value();
  error.misc = kMisc;
  error.mcg_status = kRecoverable;
  error.bank = kBank;
  FERRITE_RETURN_IF_ERROR(vcpu.SetMachineCheck(error));
  FERRITE_ASSIGN_OR_RETURN(const uint64_t status, ReadMsr(vcpu, kBankStatus));
  // KVM adds that there was another one before.
  if ((status & ~kOverflow) != error.status) {
    return absl::InternalError(absl::StrCat("vCPU ", vcpu.index(), ": KVM_X86_SET_MCE was taken, but bank ", kBank,
                                            " has status 0x", absl::Hex(status)));
  }
  return absl::OkStatus();
}

}  // namespace ferrite
