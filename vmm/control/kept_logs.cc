#include "vmm/control/kept_logs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmm/control/run_base.h"

namespace ferrite {
namespace {

// Whether `file` is a log of the machine `name` that RunDir::KeepLog() left.
bool IsKeptLog(absl::string_view name, absl::string_view file) {
  if (!absl::ConsumePrefix(&file, name) || !absl::ConsumePrefix(&file, ".failed.") ||
      !absl::ConsumeSuffix(&file, "log")) {
    return false;
  }
  return file.empty() ||
         (absl::ConsumeSuffix(&file, ".") && !file.empty() && std::all_of(file.begin(), file.end(), [](char c) {
            return absl::ascii_isdigit(static_cast<unsigned char>(c));
          }));
}

bool IsOwnFile(const Fd& base, const std::string& name) {
  struct stat info = {};
  return fstatat(base.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode) &&
         info.st_uid == geteuid();
}

}  // namespace

std::string KeptLogName(absl::string_view name) { return absl::StrCat(name, ".failed.log"); }

std::string KeptLogName(absl::string_view name, uint64_t number) {
  return absl::StrCat(name, ".failed.", number, ".log");
}

std::vector<std::string> KeptLogsIn(const Fd& base, absl::string_view name) {
  std::vector<std::string> logs;
  for (std::string& file : NamesIn(base).value_or(std::vector<std::string>())) {
    if (IsKeptLog(name, file) && IsOwnFile(base, file)) {
      logs.push_back(std::move(file));
    }
  }
  return logs;
}

}  // namespace ferrite
