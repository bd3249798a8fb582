// Where things are in every ferrite machine: the guest learns it from the ACPI tables that vmm/boot builds of this.
#ifndef FERRITE_VMM_MACHINE_PLATFORM_H_
#define FERRITE_VMM_MACHINE_PLATFORM_H_

#include <cstdint>

#include "memory/guest_address.h"

namespace ferrite {

// The first serial port of a PC.
inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint32_t kSerialIrq = 4;

// The power device's ports: sleep control, sleep status, reset.
inline constexpr uint16_t kPowerPort = 0x600;

// virtio-mmio windows, one after the other, with one interrupt each. The order of the devices is part of the guest's
// view of the machine: rng, balloon, disks as configured.
inline constexpr GuestAddress kVirtioMmioBase{0xd000'0000};
inline constexpr uint32_t kFirstVirtioIrq = 5;
// The in-kernel I/O APIC has inputs 0 to 23.
inline constexpr uint32_t kMaxVirtioDevices = 24 - kFirstVirtioIrq;

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_PLATFORM_H_
