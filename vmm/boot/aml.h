// A small builder of AML, the byte code of ACPI's definition blocks (ACPI 6.4, 20.2): objects are byte strings that
// are put into one another.
#ifndef FERRITE_VMM_BOOT_AML_H_
#define FERRITE_VMM_BOOT_AML_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace ferrite::aml {

using Bytes = std::vector<uint8_t>;

// A name is one segment of up to four characters A-Z, 0-9 and _, filled up with _; a leading backslash makes it a name
// under the root.

Bytes Integer(uint64_t value);
Bytes String(absl::string_view text);
// "PNP0501" as the integer that _HID holds for it (three letters, four hexadecimal digits).
Bytes EisaId(absl::string_view id);
Bytes Package(const std::vector<Bytes>& elements);
Bytes Name(absl::string_view name, const Bytes& value);
Bytes Scope(absl::string_view name, const std::vector<Bytes>& children);
Bytes Device(absl::string_view name, const std::vector<Bytes>& children);

// A buffer of resource descriptors (ACPI 6.4, 6.4) with the end tag, for _CRS.
Bytes ResourceTemplate(const std::vector<Bytes>& descriptors);
// Ports, all 16 bits decoded, at a fixed place.
Bytes IoPorts(uint16_t port, uint8_t count);
// An ISA interrupt (0 to 15): edge triggered, active high, exclusive.
Bytes IsaInterrupt(uint8_t irq);
Bytes Memory32Fixed(uint32_t base, uint32_t bytes);
// A GSI: edge triggered, active high, exclusive.
Bytes ExtendedInterrupt(uint32_t gsi);

}  // namespace ferrite::aml

#endif  // FERRITE_VMM_BOOT_AML_H_
