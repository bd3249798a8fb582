#include "base/control_group.h"

#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace ferrite {
namespace {

// Version 1 has no word for "no limit": it is the largest number of whole pages.
constexpr uint64_t kNoLimit = uint64_t{1} << 62;

struct Hierarchy {
  bool version2 = false;
  std::vector<std::string> directories;  // the process's own group first, then those above it
};

std::vector<std::string> Lines(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
  }
  return lines;
}

// A number of bytes in a file, when it is there and a limit.
std::optional<uint64_t> ReadBytes(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  uint64_t bytes = 0;
  if (!(file >> word) || !absl::SimpleAtoi(word, &bytes) || bytes >= kNoLimit) {
    return std::nullopt;
  }
  return bytes;
}

// Of a memory group's use: file pages, which go when others want the memory. Those of memfd and tmpfs are not among
// them.
uint64_t CachedFileBytes(const std::string& directory, bool version2) {
  uint64_t sum = 0;
  for (const std::string& line : Lines(directory + "/memory.stat")) {
    const std::pair<absl::string_view, absl::string_view> field = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    absl::string_view name = field.first;
    // Version 1 has a number of the group alone, too.
    const bool with_those_below = version2 || absl::ConsumePrefix(&name, "total_");
    uint64_t bytes = 0;
    if (with_those_below && (name == "active_file" || name == "inactive_file") &&
        absl::SimpleAtoi(field.second, &bytes)) {
      sum += bytes;
    }
  }
  return sum;
}

bool Holds(absl::string_view list, absl::string_view word) {
  for (const absl::string_view one : absl::StrSplit(list, ',')) {
    if (one == word) {
      return true;
    }
  }
  return false;
}

// A field of mountinfo: white space and backslashes are in octal ("\040").
std::string Unescaped(absl::string_view field) {
  const auto digit = [&](size_t at) { return at < field.size() && field[at] >= '0' && field[at] <= '7'; };
  std::string text;
  for (size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      text.push_back(static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0')));
      i += 3;
    } else {
      text.push_back(field[i]);
    }
  }
  return text;
}

// Takes `directory` off the front of a path that is in it, or is it.
bool ConsumeDirectory(absl::string_view* path, absl::string_view directory) {
  absl::string_view rest = *path;
  if (!absl::ConsumePrefix(&rest, directory) || (!rest.empty() && rest.front() != '/')) {
    return false;
  }
  *path = rest;
  return true;
}

// The path of the process's group in the hierarchy of a controller, or in that of version 2 for "".
std::optional<std::string> GroupOf(absl::string_view controller, const std::vector<std::string>& groups) {
  for (const std::string& line : groups) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() == 3 && (controller.empty() ? parts[0] == "0" && parts[1].empty() : Holds(parts[1], controller))) {
      return parts[2];
    }
  }
  return std::nullopt;
}

// Where groups that limit `controller` are to be found.
std::vector<Hierarchy> HierarchiesOf(absl::string_view controller, const std::string& proc) {
  const std::vector<std::string> groups = Lines(proc + "/cgroup");
  std::vector<Hierarchy> found;
  for (const std::string& line : Lines(proc + "/mountinfo")) {
    // "36 35 0:33 ROOT MOUNT_POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS"
    const std::pair<std::string, std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    const std::vector<std::string> mount = absl::StrSplit(halves.first, ' ');
    const std::vector<std::string> system = absl::StrSplit(halves.second, ' ');
    if (mount.size() < 5 || system.size() < 3) {
      continue;
    }
    Hierarchy hierarchy{.version2 = system[0] == "cgroup2"};
    if (!hierarchy.version2 && (system[0] != "cgroup" || !Holds(system[2], controller))) {
      continue;
    }
    const std::optional<std::string> group = GroupOf(hierarchy.version2 ? "" : controller, groups);
    if (!group.has_value() || absl::StartsWith(*group, "/..")) {
      continue;  // outside of what is mounted here
    }
    const std::string top = Unescaped(mount[4]);
    // In a container the mount may begin at the container's own group.
    absl::string_view below = *group;
    if (mount[3] != "/" && !ConsumeDirectory(&below, Unescaped(mount[3]))) {
      below = "";
    }
    std::string directory(absl::StripSuffix(absl::StrCat(top, below), "/"));
    while (directory.size() > top.size()) {
      hierarchy.directories.push_back(directory);
      directory.resize(directory.rfind('/'));
    }
    hierarchy.directories.push_back(top);
    found.push_back(std::move(hierarchy));
  }
  return found;
}

// As the kernel names a size of huge pages.
std::string SizeName(uint64_t bytes) {
  return bytes >= uint64_t{1} << 30   ? absl::StrCat(bytes >> 30, "GB")
         : bytes >= uint64_t{1} << 20 ? absl::StrCat(bytes >> 20, "MB")
                                      : absl::StrCat(bytes >> 10, "KB");
}

}  // namespace

std::optional<GroupLimit> HugePageGroupLimit(uint64_t page_bytes, const std::string& proc) {
  std::optional<GroupLimit> least;
  for (const Hierarchy& hierarchy : HierarchiesOf("hugetlb", proc)) {
    for (const std::string& directory : hierarchy.directories) {
      for (const char* kind : {"", ".rsvd"}) {
        const std::string prefix = absl::StrCat(directory, "/hugetlb.", SizeName(page_bytes), kind);
        const std::string file = prefix + (hierarchy.version2 ? ".max" : ".limit_in_bytes");
        const std::optional<uint64_t> limit = ReadBytes(file);
        if (!limit.has_value()) {
          continue;
        }
        const GroupLimit one{
            .file = file,
            .limit = *limit,
            .used = ReadBytes(prefix + (hierarchy.version2 ? ".current" : ".usage_in_bytes")).value_or(0)};
        if (!least.has_value() || one.left() < least->left()) {
          least = one;
        }
      }
    }
  }
  return least;
}

std::optional<GroupLimit> MemoryGroupLimit(uint64_t swap_bytes, const std::string& proc) {
  std::optional<GroupLimit> least;
  for (const Hierarchy& hierarchy : HierarchiesOf("memory", proc)) {
    for (const std::string& directory : hierarchy.directories) {
      const std::string file = directory + (hierarchy.version2 ? "/memory.max" : "/memory.limit_in_bytes");
      std::optional<uint64_t> limit = ReadBytes(file);
      if (!limit.has_value()) {
        continue;
      }
      const uint64_t used =
          ReadBytes(directory + (hierarchy.version2 ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
      uint64_t swap = swap_bytes;
      uint64_t swapped = 0;
      if (hierarchy.version2) {
        swap = std::min(swap, ReadBytes(directory + "/memory.swap.max").value_or(swap));
        swapped = std::min(swap, ReadBytes(directory + "/memory.swap.current").value_or(0));
      } else if (const auto both = ReadBytes(directory + "/memory.memsw.limit_in_bytes"); both.has_value()) {
        swap = std::min(swap, *both - std::min(*both, *limit));
        const uint64_t both_used = ReadBytes(directory + "/memory.memsw.usage_in_bytes").value_or(used);
        swapped = std::min(swap, both_used - std::min(both_used, used));
      }
      const GroupLimit one{.file = file,
                           .limit = *limit + swap,
                           .used = used - std::min(used, CachedFileBytes(directory, hierarchy.version2)) + swapped};
      if (!least.has_value() || one.left() < least->left()) {
        least = one;
      }
    }
  }
  return least;
}

}  // namespace ferrite
