// What keeps this process from having the memory that it wants.
#ifndef FERRITE_MEMORY_MEMORY_LIMITS_H_
#define FERRITE_MEMORY_MEMORY_LIMITS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "memory/memory_region.h"

namespace ferrite {

// RESOURCE_EXHAUSTED when a control group of this process does not allow that many more bytes of huge pages: they would
// be missed only when the guest touches them. `proc` as of HugePageGroupLimit().
absl::Status CheckHugePageGroups(uint64_t bytes, MemoryBacking backing, const std::string& proc = "/proc/self");

// RESOURCE_EXHAUSTED when a control group of this process leaves less than that many bytes of small pages, with as much
// of the host's swap as it may use.
absl::Status CheckMemoryGroups(uint64_t bytes, MemoryBacking backing, uint64_t swap_bytes,
                               const std::string& proc = "/proc/self");

// RESOURCE_EXHAUSTED: memory of this side could not be had (EFAULT, ENOMEM), whoever wanted to use it. The message is
// `what`, with what limits this process there.
absl::Status OutOfOwnMemory(absl::string_view what, MemoryBacking backing);

}  // namespace ferrite

#endif  // FERRITE_MEMORY_MEMORY_LIMITS_H_
