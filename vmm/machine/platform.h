// Where things are in every ferrite machine: the guest learns it from the ACPI tables that vmm/boot builds of this.
#ifndef FERRITE_VMM_MACHINE_PLATFORM_H_
#define FERRITE_VMM_MACHINE_PLATFORM_H_

#include <cstdint>
#include <iterator>

#include "memory/guest_address.h"

namespace ferrite {

// The first serial port of a PC.
inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint32_t kSerialIrq = 4;

// The power device's ports: sleep control, sleep status, reset.
inline constexpr uint16_t kPowerPort = 0x600;

// virtio-mmio windows, one after the other, each with an interrupt line of its own. The order of the devices is part of
// the guest's view of the machine: rng, balloon, disks as configured.
inline constexpr GuestAddress kVirtioMmioBase{0xd000'0000};
// The inputs of the in-kernel I/O APIC (0 to 23) without those of the timer, of the second 8259 and of the serial port,
// by the device's place. Those that a PC has for a keyboard and a second serial port, which no machine has, come last:
// what a guest of fewer devices sees does not change. No two devices share a line: edges could be shared, but each one
// would cost the guest an exit to the monitor for every device that did not ask for it.
inline constexpr uint8_t kVirtioIrqs[] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 1, 3};
inline constexpr uint32_t kMaxVirtioDevices = std::size(kVirtioIrqs);
// Beside the disks: rng, balloon, and room for two nets and a vsock.
inline constexpr uint32_t kOtherVirtioDevices = 5;

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_PLATFORM_H_
