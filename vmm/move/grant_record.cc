#include "vmm/move/grant_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "vmm/base/fd.h"
#include "vmm/base/status.h"

namespace ferrite {
namespace {

std::string PathIn(const std::string& directory) { return absl::StrCat(directory, "/grant"); }

absl::Status SyncDirectory(const std::string& directory) {
  const Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0) {
    return ErrnoStatus(absl::StrCat("sync ", directory));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteGrantRecord(const std::string& directory, const migration::MoveId& id, uint64_t epoch,
                              absl::string_view where) {
  const std::string hex = absl::BytesToHexString({reinterpret_cast<const char*>(id.data()), id.size()});
  const std::string text = absl::StrCat("move ", hex, "\nepoch ", epoch, "\nto ", where, "\n");
  const std::string path = PathIn(directory);
  const std::string unfinished = path + ".new";
  const Fd file(open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) {
    return ErrnoStatus(absl::StrCat("record the hand-over in ", unfinished));
  }
  absl::Cleanup remove = [&] { (void)unlink(unfinished.c_str()); };
  const ssize_t written = write(file.get(), text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(written < 0 ? errno : ENOSPC, absl::StrCat("record the hand-over in ", unfinished));
  }
  if (fsync(file.get()) != 0 || rename(unfinished.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("record the hand-over in ", path));
  }
  std::move(remove).Cancel();
  return SyncDirectory(directory);
}

absl::StatusOr<GrantRecord> ReadGrantRecord(const Fd& directory) {
  // O_NONBLOCK: whatever else has the name must not hold us up.
  const Fd file(openat(directory.get(), "grant", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.valid() && errno == ENOENT) {
    return absl::NotFoundError("nothing was handed over");
  }
  char text[4096];
  const ssize_t n = file.valid() ? read(file.get(), text, sizeof(text)) : -1;
  const std::vector<absl::string_view> lines =
      absl::StrSplit(absl::string_view(text, n > 0 ? static_cast<size_t>(n) : 0), '\n');
  GrantRecord record;
  if (lines.size() < 4 || !absl::StartsWith(lines[0], "move ") || !absl::StartsWith(lines[1], "epoch ") ||
      !absl::SimpleAtoi(absl::StripPrefix(lines[1], "epoch "), &record.epoch) || !absl::StartsWith(lines[2], "to ")) {
    return absl::DataLossError("the record of the hand-over cannot be read");
  }
  record.where = std::string(absl::StripPrefix(lines[2], "to "));
  return record;
}

absl::Status RemoveGrantRecord(const std::string& directory) {
  if (unlink(PathIn(directory).c_str()) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(absl::StrCat("remove ", PathIn(directory)));
  }
  return SyncDirectory(directory);
}

}  // namespace ferrite
