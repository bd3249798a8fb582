// What the kernel tells of the host's memory.
#ifndef FERRITE_BASE_MEMORY_SETTINGS_H_
#define FERRITE_BASE_MEMORY_SETTINGS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace ferrite {

// What is chosen in a line that lists choices, in brackets: "madvise" of "always [madvise] never".
std::optional<std::string> ChosenOf(absl::string_view line);

// The same of the file /sys/kernel/mm/transparent_hugepage/`file` (Documentation/admin-guide/mm/transhuge.rst). Nothing
// where this kernel has none.
std::optional<std::string> HugePageChoice(absl::string_view file);

// The line `name` of /proc/meminfo (proc_meminfo(5)), in bytes.
std::optional<uint64_t> MemInfoBytes(absl::string_view name);

}  // namespace ferrite

#endif  // FERRITE_BASE_MEMORY_SETTINGS_H_
