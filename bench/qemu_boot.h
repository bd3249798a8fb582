// A payload guest (tests/guest) in QEMU: it is entered as a ferrite machine enters it, by Linux' 64-bit boot protocol,
// without a firmware of QEMU's (qemu_boot.S).
#ifndef FERRITE_BENCH_QEMU_BOOT_H_
#define FERRITE_BENCH_QEMU_BOOT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// Writes what QEMU needs into `directory`; its arguments for it. One vCPU, and memory that ends below 3 GiB. The guest
// finds no ACPI tables: it powers off by a triple fault.
absl::StatusOr<std::vector<std::string>> MakeQemuBoot(const std::string& directory, const std::string& payload,
                                                      uint64_t memory_bytes, absl::string_view command_line);

}  // namespace ferrite

#endif  // FERRITE_BENCH_QEMU_BOOT_H_
