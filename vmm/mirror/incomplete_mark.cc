#include "vmm/mirror/incomplete_mark.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"

namespace ferrite {

absl::StatusOr<IncompleteMark> IncompleteMark::Put(const Fd& directory, const std::string& image, Found found) {
  std::string name = absl::StrCat(image, ".incomplete");
  FERRITE_ASSIGN_OR_RETURN(Fd own_directory, directory.Duplicate());
  Fd file(openat(directory.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600));
  const bool there = !file.valid() && errno == EEXIST;
  if (!file.valid() && !there) {
    return ErrnoStatus(absl::StrCat("make ", PathAt(directory, name)));
  }
  if (there) {
    const std::string path = PathAt(directory, name);
    if (found == Found::kRefused) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is there: a mirror to this target is running, or did not end; remove it then"));
    }
    FERRITE_ASSIGN_OR_RETURN(file, OpenRegularAt(directory, name, O_WRONLY));
  }
  IncompleteMark mark(std::move(own_directory), std::move(name), std::move(file), there);
  if (fsync(directory.get()) != 0) {
    const absl::Status status = ErrnoStatus(absl::StrCat("write out the directory of ", PathAt(directory, mark.name_)));
    if (!there) {
      (void)mark.Remove();
    }
    return status;
  }
  return mark;
}

absl::Status IncompleteMark::Unlink() {
  if (file_.valid() && IsNamed(directory_.get(), name_, file_) && unlinkat(directory_.get(), name_.c_str(), 0) != 0) {
    return ErrnoStatus(absl::StrCat("remove ", PathAt(directory_, name_)));
  }
  return absl::OkStatus();
}

absl::Status IncompleteMark::Remove() {
  if (!file_.valid()) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(Unlink());
  if (fsync(directory_.get()) != 0) {
    return ErrnoStatus(absl::StrCat("write out the directory of ", PathAt(directory_, name_)));
  }
  file_.Reset();
  return absl::OkStatus();
}

}  // namespace ferrite
