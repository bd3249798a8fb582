// The VM's interrupt controllers and clock ↔ state::Irqchip and state::Clock.
#ifndef FERRITE_VMM_KVM_PLATFORM_STATE_H_
#define FERRITE_VMM_KVM_PLATFORM_STATE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "proto/state.capnp.h"
#include "vmm/kvm/vm.h"

namespace ferrite {

inline constexpr uint32_t kIrqchipStateVersion = 1;
inline constexpr uint32_t kClockStateVersion = 1;

// All of it while no vCPU is in KVM_RUN.
absl::Status SaveIrqchip(const KvmVm& vm, state::Irqchip::Builder out);
// Version and lengths. Changes nothing (R7).
absl::Status CheckIrqchip(state::Irqchip::Reader in);
// After the vCPUs: the I/O APIC delivers what it holds back into the local APICs at once.
absl::Status LoadIrqchip(const KvmVm& vm, state::Irqchip::Reader in);

absl::Status SaveClock(const KvmVm& vm, state::Clock::Builder out);
absl::Status CheckClock(state::Clock::Reader in);
// The guest's KVM clock goes on from the saved value, as its TSC does (LoadVcpu): neither goes back, and both leave out
// the time between save and load. The host's real time (KVM_CLOCK_REALTIME) is not used: it would move the KVM clock
// ahead of the TSC. Before the vCPUs, whose registers may make the kernel publish the clock.
absl::Status LoadClock(const KvmVm& vm, state::Clock::Reader in);

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_PLATFORM_STATE_H_
