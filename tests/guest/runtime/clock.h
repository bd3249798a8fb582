// Time: KVM's paravirtual clock, and the TSC's frequency that comes with it.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_CLOCK_H_
#define FERRITE_TESTS_GUEST_RUNTIME_CLOCK_H_

#include <cstdint>

namespace guest {

// From KVM's clock, or the option tsc_khz=; a machine that has neither is a failure.
uint64_t TscKhz();

// Nanoseconds of KVM's clock now, on this vCPU; 0 when there is none.
uint64_t ClockNs();

uint64_t TscToNs(uint64_t tsc);

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_CLOCK_H_
