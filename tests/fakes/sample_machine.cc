#include "tests/fakes/sample_machine.h"

#include <vector>

#include "memory/guest_memory.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/machine/described_cpuid.h"

namespace ferrite {
namespace {

constexpr uint32_t kCpus = 2;

}  // namespace

HostLimits HostOfSampleMachine() {
  return {.max_vcpus = 4,
          .cpuid = {{.function = 0, .eax = 1, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
                    {.function = 1, .eax = 0x50657, .ebx = 0x800, .ecx = 0x0098'2201, .edx = 0x078b'fbff},
                    {.function = 0x8000'0000, .eax = 0x8000'0008},
                    {.function = 0x8000'0001, .ecx = 0x1, .edx = 0x2010'0800},
                    {.function = 0x8000'0008, .eax = 0x302e}},
          .memory = {.bytes = uint64_t{1} << 30}};
}

std::vector<migration::MachineSpec::Region> RegionsOf(uint64_t bytes) {
  std::vector<migration::MachineSpec::Region> regions;
  for (const MemoryPlace& place : MemoryLayout(bytes)) {
    regions.push_back({.name = place.name, .base = place.base.value(), .bytes = place.bytes, .page_bytes = 4096});
  }
  return regions;
}

void DescribeSampleMachine(state::MachineDescription::Builder out) {
  out.setCpus(kCpus);
  out.setStateVersion(1);
  out.setRebootOnReset(false);
  auto memory = out.initMemory();
  memory.setBytes(kSampleMemoryBytes);
  memory.setBacking("memfd");
  const char* const devices[] = {"virtio-rng", "virtio-balloon", "virtio-blk:root", "serial0", "power"};
  auto described = out.initDevices(std::size(devices));
  for (uint32_t i = 0; i < std::size(devices); ++i) {
    described[i].setName(devices[i]);
    described[i].setVersion(1);
  }
  auto disks = out.initDisks(1);
  disks[0].setId("root");
  disks[0].setPath("/images/root.img");
  disks[0].setBytes(kSampleDiskBytes);
  DescribeCpuid(GuestCpuid(HostOfSampleMachine().cpuid, {.count = kCpus}), out);
  out.setTscKhz(2'000'000);
  out.initBoot().setCommandLine("console=ttyS0");
}

}  // namespace ferrite
