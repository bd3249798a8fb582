// What the control groups of this process allow it (cgroups(7), versions 1 and 2).
#ifndef FERRITE_BASE_CONTROL_GROUP_H_
#define FERRITE_BASE_CONTROL_GROUP_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

namespace ferrite {

struct GroupLimit {
  std::string file;    // that sets it: "/sys/fs/cgroup/guests/hugetlb.2MB.max"
  uint64_t limit = 0;  // bytes
  uint64_t used = 0;   // likewise, by all of the group

  uint64_t left() const { return limit - std::min(limit, used); }
};

// The limits of all groups that hold this process, those above its own among them; absent when there are none. `proc`
// has the files `cgroup` and `mountinfo`: a test's, or those of another process.
//
// Of huge pages of that size, the one that leaves least: of pages in use, or of pages that are reserved.
std::optional<GroupLimit> HugePageGroupLimit(uint64_t page_bytes, const std::string& proc = "/proc/self");
// Of memory, likewise the one that leaves least; `swap_bytes` of the host's are counted as far as the group may use
// them. Cached files do not count as used: they make room.
std::optional<GroupLimit> MemoryGroupLimit(uint64_t swap_bytes, const std::string& proc = "/proc/self");

}  // namespace ferrite

#endif  // FERRITE_BASE_CONTROL_GROUP_H_
