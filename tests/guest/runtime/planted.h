// State outside of memory that a pause, a save and a move must keep: planted once, looked at again and again.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_PLANTED_H_
#define FERRITE_TESTS_GUEST_RUNTIME_PLANTED_H_

#include <cstdint>

namespace guest {

// Patterns of this vCPU in xmm0 to xmm15 (the programs use no vector register otherwise), in its local APIC (spurious
// vector, LVT error entry), and, by the first vCPU, in the I/O APIC and the PICs' masks.
void PlantState();

// Null when all is there still, or the name of the first that is not.
const char* CheckPlantedState();

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_PLANTED_H_
