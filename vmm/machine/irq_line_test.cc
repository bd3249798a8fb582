// Interrupt lines on real KVM: what a device triggers is pending in the processor.
#include "vmm/machine/irq_line.h"

#include <gtest/gtest.h>

#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/platform.h"

namespace ferrite {
namespace {

constexpr uint8_t kFirstVector = 0x40;

// Whether the vector is in the local APIC's interrupt request register (Intel SDM volume 3, 11.8.4).
bool Requests(const KvmVcpu& vcpu, uint8_t vector) {
  const kvm_lapic_state lapic = *vcpu.GetLapic();
  const size_t byte = 0x200 + vector / 32 * 0x10 + vector % 32 / 8;
  return (static_cast<uint8_t>(lapic.regs[byte]) >> vector % 8 & 1) != 0;
}

TEST(IrqLineTest, EveryLineOfAVirtioDeviceReachesTheProcessor) {
  const auto kvm = Kvm::Open();
  ASSERT_TRUE(kvm.ok()) << kvm.status();
  const auto vm = KvmVm::Create(**kvm, DirtyMode::kLog);
  ASSERT_TRUE(vm.ok()) << vm.status();
  const auto vcpu = (*vm)->CreateVcpu(0);
  ASSERT_TRUE(vcpu.ok()) << vcpu.status();
  kvm_lapic_state lapic = *(*vcpu)->GetLapic();
  lapic.regs[0xf0] = static_cast<char>(0xff);  // spurious vector
  lapic.regs[0xf1] = 0x01;                     // software enable
  ASSERT_TRUE((*vcpu)->SetLapic(lapic).ok());
  // As a guest does that asks for edges: each input has a vector, unmasked, for processor 0.
  kvm_irqchip ioapic = *(*vm)->GetIrqchip(KVM_IRQCHIP_IOAPIC);
  for (const uint8_t line : kVirtioIrqs) {
    ioapic.chip.ioapic.redirtbl[line].bits = kFirstVector + line;
  }
  ASSERT_TRUE((*vm)->SetIrqchip(ioapic).ok());
  for (const uint8_t line : kVirtioIrqs) {
    SCOPED_TRACE(int{line});
    const auto interrupt = IrqLine::Create(**vm, line);
    ASSERT_TRUE(interrupt.ok()) << interrupt.status();
    const uint8_t vector = kFirstVector + line;
    ASSERT_FALSE(Requests(**vcpu, vector));
    (*interrupt)->Trigger();
    // KVM raises it on a thread of its own.
    const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(30);
    while (!Requests(**vcpu, vector)) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
}

}  // namespace
}  // namespace ferrite
