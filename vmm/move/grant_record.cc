#include "vmm/move/grant_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
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

absl::Status RemoveGrantRecord(const std::string& directory) {
  if (unlink(PathIn(directory).c_str()) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(absl::StrCat("remove ", PathIn(directory)));
  }
  return SyncDirectory(directory);
}

}  // namespace ferrite
