#include "vmm/kvm/vcpu_state.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "vmm/kvm/blob.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/msr_names.h"

namespace ferrite {
namespace {

// More than any kernel has: what a peer may make us copy.
constexpr uint32_t kMaxMsrs = 2048;
constexpr uint32_t kMaxCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES

// Part of a processor's state, but not in KVM_GET_MSR_INDEX_LIST of all kernels: the memory types (MTRRs) and the
// machine-check banks.
const std::vector<uint32_t>& UnlistedMsrs() {
  static const std::vector<uint32_t>* const kIndices = [] {
    constexpr uint32_t kMtrrPairs = 8;
    constexpr uint32_t kMachineCheckBanks = 10;  // as SetUpMachineCheck()
    auto* indices = new std::vector<uint32_t>{0x2ff, 0x250, 0x258, 0x259};
    for (uint32_t i = 0; i < 2 * kMtrrPairs; ++i) {
      indices->push_back(0x200 + i);
    }
    for (uint32_t i = 0x268; i <= 0x26f; ++i) {
      indices->push_back(i);
    }
    for (uint32_t i = 0; i < 4 * kMachineCheckBanks; ++i) {
      indices->push_back(0x400 + i);
    }
    return indices;
  }();
  return *kIndices;
}

std::vector<uint32_t> StateMsrs(const Kvm& kvm) {
  std::vector<uint32_t> indices(kvm.msr_indices().begin(), kvm.msr_indices().end());
  for (const uint32_t index : UnlistedMsrs()) {
    if (std::find(indices.begin(), indices.end(), index) == indices.end()) {
      indices.push_back(index);
    }
  }
  return indices;
}

std::vector<kvm_cpuid_entry2> CpuidOf(state::Vcpu::Reader in) {
  std::vector<kvm_cpuid_entry2> entries;
  entries.reserve(in.getCpuid().size());
  for (const state::CpuidEntry::Reader entry : in.getCpuid()) {
    entries.push_back({.function = entry.getFunction(),
                       .index = entry.getIndex(),
                       .flags = entry.getFlags(),
                       .eax = entry.getEax(),
                       .ebx = entry.getEbx(),
                       .ecx = entry.getEcx(),
                       .edx = entry.getEdx()});
  }
  return entries;
}

bool SameCpuid(std::span<const kvm_cpuid_entry2> a, std::span<const kvm_cpuid_entry2> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const kvm_cpuid_entry2& x, const kvm_cpuid_entry2& y) {
    return x.function == y.function && x.index == y.index && x.flags == y.flags && x.eax == y.eax && x.ebx == y.ebx &&
           x.ecx == y.ecx && x.edx == y.edx;
  });
}

absl::Status CheckVcpuFields(const Kvm& kvm, const KvmVcpu& vcpu, std::span<const kvm_cpuid_entry2> host_cpuid,
                             state::Vcpu::Reader in) {
  if (in.getVersion() == 0 || in.getVersion() > kVcpuStateVersion) {
    return absl::UnimplementedError(
        absl::StrCat("its state has version ", in.getVersion(), ", this ferrite reads 1 to ", kVcpuStateVersion));
  }
  if (in.getIndex() != vcpu.index()) {
    return absl::InvalidArgumentError(absl::StrCat("its state says index ", in.getIndex()));
  }
  // RUNNABLE, UNINITIALIZED, INIT_RECEIVED, HALTED, SIPI_RECEIVED: the states of x86.
  if (in.getMpState() > KVM_MP_STATE_SIPI_RECEIVED) {
    return absl::InvalidArgumentError(absl::StrCat("mpState ", in.getMpState(), " is none of x86's"));
  }
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_regs>(in.getRegs(), "regs"));
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_sregs>(in.getSregs(), "sregs"));
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_xcrs>(in.getXcrs(), "xcrs"));
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_debugregs>(in.getDebugRegs(), "debugRegs"));
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_lapic_state>(in.getLapic(), "lapic"));
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_vcpu_events>(in.getEvents(), "events"));
  // A shorter area (of a host with fewer components) is the beginning of ours.
  const size_t xsave_bytes = in.getXsave().size();
  if (xsave_bytes < sizeof(kvm_xsave) || xsave_bytes > vcpu.xsave_bytes() || xsave_bytes % sizeof(uint32_t) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("xsave has ", xsave_bytes, " bytes, not ", sizeof(kvm_xsave), " to ", vcpu.xsave_bytes()));
  }
  if (FromBlob<kvm_xcrs>(in.getXcrs()).nr_xcrs > KVM_MAX_XCRS) {
    return absl::InvalidArgumentError("xcrs counts more registers than it has room for");
  }
  const kvm_vcpu_events events = FromBlob<kvm_vcpu_events>(in.getEvents());
  if ((events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) != 0 && events.triple_fault.pending != 0 &&
      !kvm.capabilities().has(KVM_CAP_X86_TRIPLE_FAULT_EVENT)) {
    return absl::FailedPreconditionError("a triple fault is pending, which this host's KVM cannot take over");
  }
  if (in.getMsrs().size() > kMaxMsrs) {
    return absl::InvalidArgumentError(absl::StrCat("it has ", in.getMsrs().size(), " MSRs, more than ", kMaxMsrs));
  }
  const std::vector<uint32_t> known = StateMsrs(kvm);
  for (const state::Msr::Reader msr : in.getMsrs()) {
    if (msr.getValue() != 0 && std::find(known.begin(), known.end(), msr.getIndex()) == known.end()) {
      return absl::FailedPreconditionError(absl::StrCat(MsrName(msr.getIndex()), " is 0x", absl::Hex(msr.getValue()),
                                                        ", but this host's KVM does not have the register"));
    }
  }
  if (in.getCpuid().size() > kMaxCpuidEntries) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", in.getCpuid().size(), " CPUID entries, more than ", kMaxCpuidEntries));
  }
  FERRITE_RETURN_IF_ERROR(CheckCpuidFits(CpuidOf(in), host_cpuid));

  // What KVM_SET_TSC_KHZ takes without scaling: the host's own frequency within 250 ppm.
  constexpr uint64_t kTolerancePpm = 250;
  const uint64_t wanted = in.getTscKhz();
  const uint64_t have = vcpu.tsc_khz();
  if (wanted != 0 && have != 0 && !kvm.capabilities().has(KVM_CAP_TSC_CONTROL)) {
    const uint64_t difference = wanted > have ? wanted - have : have - wanted;
    if (difference * 1'000'000 > have * kTolerancePpm) {
      return absl::FailedPreconditionError(absl::StrCat("the guest's TSC runs at ", wanted, " kHz, this host's at ",
                                                        have, " kHz, and its processor cannot scale it"));
    }
  }
  return absl::OkStatus();
}

// nullopt: the kernel lacks the register.
absl::StatusOr<std::optional<uint64_t>> ReadMsr(const KvmVcpu& vcpu, uint32_t index) {
  FERRITE_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> msrs, vcpu.GetMsrs({&index, 1}));
  return msrs.empty() ? std::nullopt : std::optional<uint64_t>(msrs[0].data);
}

// KVM takes a value that is within a second of what this VM's TSC has for a try to synchronise, and keeps its own: a
// young guest would go back. And where the host's TSC is unstable each vCPU has an offset of its own at each save.
absl::Status RaiseTscTo(KvmVcpu& vcpu, uint64_t saved) {
  FERRITE_ASSIGN_OR_RETURN(const std::optional<uint64_t> now, ReadMsr(vcpu, kMsrTsc));
  const std::optional<uint64_t> offset = vcpu.GetTscOffset();
  const auto behind = static_cast<int64_t>(saved - now.value_or(saved));
  return behind > 0 && offset.has_value() ? vcpu.SetTscOffset(*offset + static_cast<uint64_t>(behind))
                                          : absl::OkStatus();
}

// Sets the TSC so that it goes on from the saved value: the register first, which lets the kernel choose an offset for
// this host; then, on all vCPUs but the first, the offset that is as far from the first one's as it was at the save.
absl::Status LoadTsc(KvmVcpu& vcpu, TscAnchor& anchor, state::Vcpu::Reader in, const kvm_msr_entry& tsc) {
  FERRITE_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> refused, vcpu.SetMsrs({&tsc, 1}));
  if (!refused.empty()) {
    return absl::InternalError("KVM_SET_MSRS refused the TSC");
  }
  if (in.getHasTscOffset() && anchor.offset_shift.has_value() && vcpu.GetTscOffset().has_value()) {
    FERRITE_RETURN_IF_ERROR(vcpu.SetTscOffset(in.getTscOffset() + *anchor.offset_shift));
  }
  FERRITE_RETURN_IF_ERROR(RaiseTscTo(vcpu, tsc.data));
  if (const std::optional<uint64_t> offset = vcpu.GetTscOffset();
      in.getHasTscOffset() && offset.has_value() && !anchor.offset_shift.has_value()) {
    anchor.offset_shift = *offset - in.getTscOffset();
  }
  return absl::OkStatus();
}

// The capabilities of nested virtualisation, which no guest of ours has: KVM refuses them then, and they may differ
// from host to host.
bool IsVmxCapability(uint32_t msr) { return msr >= 0x480 && msr <= 0x493; }

// Whether the guest would see another value than it had: a register that KVM refuses to set may hold the same already.
absl::StatusOr<bool> IsLost(const KvmVcpu& vcpu, const kvm_msr_entry& wanted) {
  if (IsVmxCapability(wanted.index)) {
    return false;
  }
  FERRITE_ASSIGN_OR_RETURN(const std::optional<uint64_t> have, ReadMsr(vcpu, wanted.index));
  // Zero is what a register that this kernel lacks would hold.
  return wanted.data != have.value_or(0);
}

absl::Status LoadMsrs(KvmVcpu& vcpu, TscAnchor& anchor, state::Vcpu::Reader in) {
  std::vector<kvm_msr_entry> entries;
  std::optional<kvm_msr_entry> tsc;
  std::optional<kvm_msr_entry> deadline;
  for (const state::Msr::Reader msr : in.getMsrs()) {
    const kvm_msr_entry entry = {.index = msr.getIndex(), .reserved = 0, .data = msr.getValue()};
    if (entry.index == kMsrTsc) {
      tsc = entry;
    } else if (entry.index == kMsrTscDeadline) {
      deadline = entry;
    } else {
      entries.push_back(entry);
    }
  }
  // The deadline is a TSC value: the TSC first, the deadline last, when the local APIC is in its mode.
  if (tsc.has_value()) {
    FERRITE_RETURN_IF_ERROR(LoadTsc(vcpu, anchor, in, *tsc));
  }
  if (deadline.has_value()) {
    entries.push_back(*deadline);
  }
  FERRITE_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> refused, vcpu.SetMsrs(entries));
  std::vector<std::string> names;
  for (const kvm_msr_entry& entry : refused) {
    FERRITE_ASSIGN_OR_RETURN(const bool lost, IsLost(vcpu, entry));
    if (lost) {
      names.push_back(absl::StrCat(MsrName(entry.index), " = 0x", absl::Hex(entry.data)));
    }
  }
  // R7: better no move than a guest whose registers have changed under it.
  return names.empty() ? absl::OkStatus()
                       : absl::FailedPreconditionError(absl::StrCat("vCPU ", vcpu.index(),
                                                                    ": this host's KVM does not take the registers ",
                                                                    absl::StrJoin(names, ", ")));
}

}  // namespace

absl::Status SaveVcpu(const Kvm& kvm, const KvmVcpu& vcpu, state::Vcpu::Builder out) {
  out.setVersion(kVcpuStateVersion);
  out.setIndex(vcpu.index());
  // Some calls change what others read. KVM_GET_MP_STATE takes in INIT and SIPI that wait: it is first.
  // KVM_GET_VCPU_EVENTS puts what a pending exception brings into CR2 and DR6: before those are read.
  FERRITE_ASSIGN_OR_RETURN(const kvm_mp_state mp_state, vcpu.GetMpState());
  out.setMpState(mp_state.mp_state);
  FERRITE_ASSIGN_OR_RETURN(const kvm_vcpu_events events, vcpu.GetEvents());
  out.setEvents(BlobOf(events));
  FERRITE_ASSIGN_OR_RETURN(const kvm_regs regs, vcpu.GetRegs());
  out.setRegs(BlobOf(regs));
  FERRITE_ASSIGN_OR_RETURN(const kvm_sregs sregs, vcpu.GetSregs());
  out.setSregs(BlobOf(sregs));
  FERRITE_ASSIGN_OR_RETURN(const std::vector<uint8_t> xsave, vcpu.GetXsave());
  out.setXsave(capnp::Data::Reader(xsave.data(), xsave.size()));
  FERRITE_ASSIGN_OR_RETURN(const kvm_xcrs xcrs, vcpu.GetXcrs());
  out.setXcrs(BlobOf(xcrs));
  FERRITE_ASSIGN_OR_RETURN(const kvm_debugregs debug_registers, vcpu.GetDebugRegs());
  out.setDebugRegs(BlobOf(debug_registers));

  FERRITE_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> msrs, vcpu.GetMsrs(StateMsrs(kvm)));
  auto msr_list = out.initMsrs(msrs.size());
  for (size_t i = 0; i < msrs.size(); ++i) {
    msr_list[i].setIndex(msrs[i].index);
    msr_list[i].setValue(msrs[i].data);
  }
  // A timer that expires clears its deadline and sets its interrupt in the local APIC. Read in this order it is in one
  // of the two, or in both; in the other order it may be in none, and the guest would wait for its tick forever.
  FERRITE_ASSIGN_OR_RETURN(const kvm_lapic_state lapic, vcpu.GetLapic());
  out.setLapic(BlobOf(lapic));

  out.setTscKhz(vcpu.tsc_khz());
  const std::optional<uint64_t> tsc_offset = vcpu.GetTscOffset();
  out.setHasTscOffset(tsc_offset.has_value());
  out.setTscOffset(tsc_offset.value_or(0));

  auto cpuid_list = out.initCpuid(vcpu.cpuid().size());
  for (size_t i = 0; i < vcpu.cpuid().size(); ++i) {
    const kvm_cpuid_entry2& entry = vcpu.cpuid()[i];
    cpuid_list[i].setFunction(entry.function);
    cpuid_list[i].setIndex(entry.index);
    cpuid_list[i].setFlags(entry.flags);
    cpuid_list[i].setEax(entry.eax);
    cpuid_list[i].setEbx(entry.ebx);
    cpuid_list[i].setEcx(entry.ecx);
    cpuid_list[i].setEdx(entry.edx);
  }
  return absl::OkStatus();
}

absl::Status CheckVcpu(const Kvm& kvm, const KvmVcpu& vcpu, std::span<const kvm_cpuid_entry2> host_cpuid,
                       state::Vcpu::Reader in) {
  return Annotate(CheckVcpuFields(kvm, vcpu, host_cpuid, in), absl::StrCat("vCPU ", vcpu.index()));
}

absl::Status LoadVcpu(KvmVcpu& vcpu, TscAnchor& anchor, state::Vcpu::Reader in) {
  // What a vCPU may do decides which values the kernel takes: CPUID comes before everything. A vCPU that ran keeps its
  // CPUID for good, and a reset or a load of its own state brings the same.
  if (const std::vector<kvm_cpuid_entry2> cpuid = CpuidOf(in); !SameCpuid(cpuid, vcpu.cpuid())) {
    FERRITE_RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
  }
  if (in.getTscKhz() != 0 && in.getTscKhz() != vcpu.tsc_khz()) {
    FERRITE_RETURN_IF_ERROR(vcpu.SetTscKhz(in.getTscKhz()));
  }
  // Takes in an INIT or a SIPI that waits, so that it does not arrive after the load.
  FERRITE_RETURN_IF_ERROR(vcpu.GetMpState().status());
  FERRITE_RETURN_IF_ERROR(vcpu.DisableGuestDebug());

  // KVM_SET_REGS drops pending exceptions: before the events. KVM_SET_SREGS sets the APIC base: before the local APIC.
  // The local APIC's timer mode decides whether the TSC deadline is taken: before the MSRs.
  FERRITE_RETURN_IF_ERROR(vcpu.SetMpState({.mp_state = in.getMpState()}));
  FERRITE_RETURN_IF_ERROR(vcpu.SetRegs(FromBlob<kvm_regs>(in.getRegs())));
  FERRITE_RETURN_IF_ERROR(vcpu.SetSregs(FromBlob<kvm_sregs>(in.getSregs())));
  std::vector<uint8_t> xsave(vcpu.xsave_bytes());
  std::copy(in.getXsave().begin(), in.getXsave().end(), xsave.begin());
  FERRITE_RETURN_IF_ERROR(vcpu.SetXsave(xsave));
  FERRITE_RETURN_IF_ERROR(vcpu.SetXcrs(FromBlob<kvm_xcrs>(in.getXcrs())));
  FERRITE_RETURN_IF_ERROR(vcpu.SetDebugRegs(FromBlob<kvm_debugregs>(in.getDebugRegs())));
  FERRITE_RETURN_IF_ERROR(vcpu.SetLapic(FromBlob<kvm_lapic_state>(in.getLapic())));
  FERRITE_RETURN_IF_ERROR(LoadMsrs(vcpu, anchor, in));
  kvm_vcpu_events events = FromBlob<kvm_vcpu_events>(in.getEvents());
  if (events.triple_fault.pending == 0) {
    // A kernel without the capability refuses the flag, and "none pending" is its default.
    events.flags &= ~KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  }
  return vcpu.SetEvents(events);
}

}  // namespace ferrite
