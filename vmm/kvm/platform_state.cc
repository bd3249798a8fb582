#include "vmm/kvm/platform_state.h"

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/kvm/blob.h"

namespace ferrite {
namespace {

absl::Status CheckVersion(uint32_t version, uint32_t newest, absl::string_view name) {
  if (version == 0 || version > newest) {
    return absl::UnimplementedError(
        absl::StrCat(name, ": its state has version ", version, ", this ferrite reads 1 to ", newest));
  }
  return absl::OkStatus();
}

absl::Status CheckChip(capnp::Data::Reader blob, uint32_t id, absl::string_view name) {
  FERRITE_RETURN_IF_ERROR(CheckBlob<kvm_irqchip>(blob, name));
  if (const uint32_t have = FromBlob<kvm_irqchip>(blob).chip_id; have != id) {
    return absl::InvalidArgumentError(absl::StrCat(name, " holds chip ", have, ", not ", id));
  }
  return absl::OkStatus();
}

// Turns count_load_time, a time on the host's monotonic clock, into the age of the count, which means the same on every
// host; the other way round it is the same subtraction.
void SwapTimeAndAge(kvm_pit_state2& pit) {
  const int64_t now = MonotonicNs();
  for (kvm_pit_channel_state& channel : pit.channels) {
    channel.count_load_time = static_cast<int64_t>(static_cast<uint64_t>(now) - channel.count_load_time);
  }
}

}  // namespace

absl::Status SaveIrqchip(const KvmVm& vm, state::Irqchip::Builder out) {
  out.setVersion(kIrqchipStateVersion);
  FERRITE_ASSIGN_OR_RETURN(const kvm_irqchip master, vm.GetIrqchip(KVM_IRQCHIP_PIC_MASTER));
  out.setPicMaster(BlobOf(master));
  FERRITE_ASSIGN_OR_RETURN(const kvm_irqchip slave, vm.GetIrqchip(KVM_IRQCHIP_PIC_SLAVE));
  out.setPicSlave(BlobOf(slave));
  FERRITE_ASSIGN_OR_RETURN(const kvm_irqchip ioapic, vm.GetIrqchip(KVM_IRQCHIP_IOAPIC));
  out.setIoapic(BlobOf(ioapic));
  FERRITE_ASSIGN_OR_RETURN(kvm_pit_state2 pit, vm.GetPit());
  SwapTimeAndAge(pit);
  out.setPit(BlobOf(pit));
  return absl::OkStatus();
}

absl::Status CheckIrqchip(state::Irqchip::Reader in) {
  FERRITE_RETURN_IF_ERROR(CheckVersion(in.getVersion(), kIrqchipStateVersion, "irqchip"));
  FERRITE_RETURN_IF_ERROR(CheckChip(in.getPicMaster(), KVM_IRQCHIP_PIC_MASTER, "irqchip: picMaster"));
  FERRITE_RETURN_IF_ERROR(CheckChip(in.getPicSlave(), KVM_IRQCHIP_PIC_SLAVE, "irqchip: picSlave"));
  FERRITE_RETURN_IF_ERROR(CheckChip(in.getIoapic(), KVM_IRQCHIP_IOAPIC, "irqchip: ioapic"));
  return CheckBlob<kvm_pit_state2>(in.getPit(), "irqchip: pit");
}

absl::Status LoadIrqchip(const KvmVm& vm, state::Irqchip::Reader in) {
  FERRITE_RETURN_IF_ERROR(vm.SetIrqchip(FromBlob<kvm_irqchip>(in.getPicMaster())));
  FERRITE_RETURN_IF_ERROR(vm.SetIrqchip(FromBlob<kvm_irqchip>(in.getPicSlave())));
  FERRITE_RETURN_IF_ERROR(vm.SetIrqchip(FromBlob<kvm_irqchip>(in.getIoapic())));
  kvm_pit_state2 pit = FromBlob<kvm_pit_state2>(in.getPit());
  SwapTimeAndAge(pit);
  FERRITE_RETURN_IF_ERROR(vm.SetPit(pit));
  // KVM raises and lowers the line of an irqfd in two steps, on a worker of its own. A state that was saved between
  // them has a line that nobody here will lower, and the next edge on it would be lost: all our lines are
  // edge-triggered.
  for (uint32_t gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; ++gsi) {
    FERRITE_RETURN_IF_ERROR(vm.LowerIrqLine(gsi));
  }
  return absl::OkStatus();
}

absl::Status SaveClock(const KvmVm& vm, state::Clock::Builder out) {
  out.setVersion(kClockStateVersion);
  FERRITE_ASSIGN_OR_RETURN(const kvm_clock_data clock, vm.GetClock());
  out.setKvmClock(BlobOf(clock));
  return absl::OkStatus();
}

absl::Status CheckClock(state::Clock::Reader in) {
  FERRITE_RETURN_IF_ERROR(CheckVersion(in.getVersion(), kClockStateVersion, "clock"));
  return CheckBlob<kvm_clock_data>(in.getKvmClock(), "clock: kvmClock");
}

absl::Status LoadClock(const KvmVm& vm, state::Clock::Reader in) {
  // Only the value: the flags said how it was read.
  return vm.SetClock({.clock = FromBlob<kvm_clock_data>(in.getKvmClock()).clock});
}

}  // namespace ferrite
