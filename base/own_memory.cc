#include "base/own_memory.h"

#include <cerrno>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/control_group.h"

namespace ferrite {

std::string OwnMemoryWords(int error, const std::string& proc) {
  if (error != EFAULT) {
    return "";
  }
  std::string words = "; a page of the guest's memory cannot be had on this host";
  for (const uint64_t bytes : {uint64_t{4} << 10, uint64_t{2} << 20, uint64_t{1} << 30}) {
    const std::optional<GroupLimit> limit =
        bytes == uint64_t{4} << 10 ? MemoryGroupLimit(0, proc) : HugePageGroupLimit(bytes, proc);
    if (limit.has_value() && limit->left() < bytes) {
      absl::StrAppend(&words, ", and a limit of this process's control group leaves none of ", bytes >> 10, " KiB (",
                      limit->file, " is ", limit->limit, ")");
    }
  }
  return words;
}

}  // namespace ferrite
