// Files that are found by their names once, and opened later.
#ifndef FERRITE_BASE_PINNED_FILE_H_
#define FERRITE_BASE_PINNED_FILE_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace ferrite {

// The file that a name stood for when it was looked up: what is checked and what is opened later are one file, whatever
// is put in the place of the name meanwhile. To hold it opens nothing of it (O_PATH): no lease, no lock and no device
// driver notices. Its content is its owner's to change. Threads: any number may use one.
class PinnedFile {
 public:
  // The links in a path that are followed.
  enum class Links {
    kAll,  // as open(2) does
    // Links of TrustedHere(), as FindFile(): with another one, somebody else would say which file is meant.
    kOwn,
  };

  // Errors are open(2)'s, with the path; FAILED_PRECONDITION for a link that is not followed.
  static absl::StatusOr<PinnedFile> Find(std::string path, Links links);
  // The file at `below` in `directory`, by openat2(2): no link of any kind is followed and the directory is not left;
  // FAILED_PRECONDITION where that would be needed. `path` is its name for people.
  static absl::StatusOr<PinnedFile> FindBelow(int directory, const std::string& below, std::string path);

  const std::string& path() const { return path_; }
  // Where others find it now: path() while it leads to this file, else the name from the root under which it was put
  // elsewhere, "" when it has none any more. By the time it is used it may be out of date.
  std::string PathNow() const;
  // For fstat(2) and its like. Not for reading.
  int fd() const { return fd_.get(); }
  // As open(2), of this very file, with O_CLOEXEC and O_NOCTTY: an empty one and errno. It may be asked again and
  // again.
  Fd Open(int flags) const;
  // As access(2), for the effective user.
  int Access(int mode) const;

 private:
  PinnedFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string Link() const;

  std::string path_;
  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_PINNED_FILE_H_
