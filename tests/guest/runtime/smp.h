// All vCPUs at work on one function.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_SMP_H_
#define FERRITE_TESTS_GUEST_RUNTIME_SMP_H_

#include <cstdint>

#include "tests/guest/runtime/atomic.h"
#include "tests/guest/runtime/cpu.h"

namespace guest {

// The program; runs on the first vCPU. The machine powers off when it returns.
void Main();

// How many vCPUs take part: all, or what the option cpus= says.
uint32_t Cpus();
Cpu& CpuAt(uint32_t index);

// An NMI to all vCPUs but this one, whether or not they have started.
void SendNmi();

// Runs `work` on every vCPU (the others are woken with INIT and SIPI the first time) and returns when all are done.
void RunOnAllCpus(void (*work)());

// Waits until all vCPUs that RunOnAllCpus() runs have come here.
void Barrier();

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_SMP_H_
