// The description of a machine as a source sends it, and a host that can have it: for tests without KVM.
#ifndef FERRITE_TESTS_FAKES_SAMPLE_MACHINE_H_
#define FERRITE_TESTS_FAKES_SAMPLE_MACHINE_H_

#include <cstdint>
#include <vector>

#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"
#include "vmm/machine/host_limits.h"

namespace ferrite {

inline constexpr uint64_t kSampleMemoryBytes = uint64_t{64} << 20;
// Bytes of the disk "root".
inline constexpr uint64_t kSampleDiskBytes = 4096;

// 64 MiB, two vCPUs, serial0, power, a source of randomness, a balloon, the disk "root" that is read and written. It is
// not booted again on a reset.
void DescribeSampleMachine(state::MachineDescription::Builder out);

// Where a source has memory of so many bytes, as it tells of it.
std::vector<migration::MachineSpec::Region> RegionsOf(uint64_t bytes);

// 1 GiB of memory without swap, four vCPUs, and a processor that has what the described one has.
HostLimits HostOfSampleMachine();

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_SAMPLE_MACHINE_H_
