#include "memory/memory_limits.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "base/control_group.h"
#include "base/status.h"

namespace ferrite {
namespace {

bool IsHuge(MemoryBacking backing) { return HostPageBytes(backing) > kPageBytes; }

std::string Describe(const GroupLimit& limit, uint64_t unit) {
  return absl::StrCat("the limit of this process's control group leaves ", limit.left() / unit, " (", limit.file,
                      " is ", limit.limit, ", ", limit.used, " bytes are used)");
}

}  // namespace

absl::Status CheckHugePageGroups(uint64_t bytes, MemoryBacking backing, const std::string& proc) {
  if (!IsHuge(backing)) {
    return absl::OkStatus();
  }
  const uint64_t page_bytes = HostPageBytes(backing);
  const std::optional<GroupLimit> limit = HugePageGroupLimit(page_bytes, proc);
  if (!limit.has_value() || limit->left() >= bytes) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat("memory backing ", MemoryBackingName(backing), ": ",
                                                   bytes / page_bytes, " huge pages of ", page_bytes >> 20,
                                                   " MiB are needed, but ", Describe(*limit, page_bytes)));
}

absl::Status CheckMemoryGroups(uint64_t bytes, MemoryBacking backing, uint64_t swap_bytes, const std::string& proc) {
  if (IsHuge(backing)) {
    return absl::OkStatus();
  }
  const std::optional<GroupLimit> group = MemoryGroupLimit(swap_bytes, proc);
  if (!group.has_value() || bytes <= group->left()) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "the machine has ", bytes >> 20, " MiB of memory, more than is left to this monitor's control group: ",
      group->left() >> 20, " of ", group->limit >> 20, " MiB (", group->file, ", MemoryMax= of a systemd unit)"));
}

absl::Status OutOfOwnMemory(absl::string_view what, MemoryBacking backing) {
  const uint64_t page_bytes = HostPageBytes(backing);
  const std::optional<GroupLimit> limit = IsHuge(backing) ? HugePageGroupLimit(page_bytes) : MemoryGroupLimit(0);
  return absl::ResourceExhaustedError(
      limit.has_value() ? absl::StrCat(what, "; of pages of ", page_bytes >> 10, " KiB ", Describe(*limit, page_bytes))
                        : std::string(what));
}

}  // namespace ferrite
