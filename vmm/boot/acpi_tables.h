// The ACPI tables that describe the machine to the guest (ACPI 6.4, hardware-reduced).
#ifndef FERRITE_VMM_BOOT_ACPI_TABLES_H_
#define FERRITE_VMM_BOOT_ACPI_TABLES_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/guest_address.h"

namespace ferrite {

// The tables live here, the RSDP first: where an operating system without other advice looks for it (ACPI 5.2.5.1).
inline constexpr GuestAddress kAcpiTablesStart{0xe'0000};
inline constexpr GuestAddress kAcpiTablesEnd{0xf'0000};

inline constexpr uint32_t kLocalApicAddress = 0xfee0'0000;
inline constexpr uint32_t kIoApicAddress = 0xfec0'0000;
// KVM's in-kernel I/O APIC: GSI 0 to 23.
inline constexpr uint32_t kIoApicPins = 24;

// The power-off state that \_S5 names, and the byte that the guest therefore writes to the sleep control register:
// SLP_TYP in bits 2 to 4, SLP_EN in bit 5 (ACPI 4.8.3.7).
inline constexpr uint8_t kAcpiS5SleepType = 5;
inline constexpr uint8_t kAcpiPowerOffValue = (kAcpiS5SleepType << 2) | (1 << 5);

// What the tables say of the machine. Interrupts are GSIs, edge triggered and active high.
struct AcpiPlatform {
  struct Serial {
    uint16_t port = 0x3f8;
    uint8_t irq = 4;
  };
  struct VirtioMmio {
    uint32_t base = 0;
    uint32_t bytes = 0;
    uint32_t irq = 0;
  };

  uint32_t cpus = 1;  // APIC ids 0 to cpus - 1; at most 255

  // One-byte registers in I/O port space.
  uint16_t sleep_control_port = 0;
  uint16_t sleep_status_port = 0;
  uint16_t reset_port = 0;
  uint8_t reset_value = 0;  // what the guest writes to reset_port to reset the machine

  std::optional<Serial> serial;         // a 16550, PNP0501
  std::vector<VirtioMmio> virtio_mmio;  // LNRO0005, in this order
};

// The bytes to put at kAcpiTablesStart: RSDP, then XSDT, FADT, DSDT and MADT. INVALID_ARGUMENT when they do not fit
// below kAcpiTablesEnd or the platform has an interrupt that the I/O APIC lacks.
absl::StatusOr<std::vector<uint8_t>> BuildAcpiTables(const AcpiPlatform& platform);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_ACPI_TABLES_H_
