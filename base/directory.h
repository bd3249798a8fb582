// Directories by descriptor: a path is looked at once, link by link, and what is below its end is reached through the
// descriptor that was looked at. Whoever may rename something on the way to it changes nothing afterwards.
#ifndef FERRITE_BASE_DIRECTORY_H_
#define FERRITE_BASE_DIRECTORY_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"

namespace ferrite {

// Who may put something in our way: this process's user, and root, who can anyway.
struct TrustedUsers {
  uid_t user = 0;
  // The owner of "/". In a user namespace without a root this is the number that stands for all who are not in it.
  uid_t root = 0;

  bool Include(uid_t uid) const { return uid == user || uid == root; }
};
TrustedUsers TrustedHere();

// Whether nobody but `trusted` can rename, remove or replace what they make in the directory that `info` is of: it is
// theirs, and others may not write to it, or only with the sticky bit. FAILED_PRECONDITION names `path` and why.
absl::Status CheckDirectory(absl::string_view path, const struct stat& info, const TrustedUsers& trusted);

// A directory that a walk made.
struct MadeDirectory {
  Fd parent;
  std::string name;
  Fd directory;
};

struct WalkOptions {
  TrustedUsers trusted = TrustedHere();
  // Directories of anybody's on the way: for whoever only looks. A symbolic link is followed only if it belongs to one
  // of `trusted`, here as always.
  bool through_anybodys = false;
  // Not null: what is missing is made, mode 0700 whatever the umask, and added here, in order.
  std::vector<MadeDirectory>* made = nullptr;
};
// A descriptor (O_PATH) of the directory `path`. All directories on the way to it and itself have passed
// CheckDirectory(). NOT_FOUND when one is missing; FAILED_PRECONDITION names what is no directory, or is refused.
absl::StatusOr<Fd> WalkToDirectory(const std::string& path, const WalkOptions& options);

// A descriptor (O_PATH) of what `path` leads to, through directories of anybody's. Opens nothing of it. A symbolic link
// that belongs to neither of `trusted` is not followed, wherever on the way it is: FAILED_PRECONDITION names it.
absl::StatusOr<Fd> FindFile(const std::string& path, const TrustedUsers& trusted = TrustedHere());

// The same of `path` from `directory` on. Messages name where that can be reached now.
absl::StatusOr<Fd> FindFileAt(const Fd& directory, const std::string& path,
                              const TrustedUsers& trusted = TrustedHere());

// The directory of `path`, which need not be there itself, open for reading. Links in its path are followed when root
// or this process's user made them. INVALID_ARGUMENT for a path that ends as a directory's does.
absl::StatusOr<Fd> FindDirectoryOf(const std::string& path);

// Opens `path` to append to, or makes it, mode 0600. Never waits (O_NONBLOCK). Links as FindFile(). INVALID_ARGUMENT
// for what is no regular file, if that is wanted: a FIFO waits for its reader, a device may do anything.
enum class AppendTo { kAnything, kRegularFile };
absl::StatusOr<Fd> OpenForAppending(const std::string& path, AppendTo what,
                                    const TrustedUsers& trusted = TrustedHere());

// Those that are empty and still have their names.
void RemoveDirectories(const std::vector<MadeDirectory>& made);

// Whether `name` in `directory` is what `file` is open for: what somebody else has put there since is not ours to
// remove. As long as `file` is open nothing else can be taken for it.
bool IsNamed(int directory, const std::string& name, const Fd& file);

// Makes the directory `name`, mode 0700 whatever the umask. False when something of the name is there.
absl::StatusOr<bool> MakeDirectoryAt(const Fd& directory, const std::string& name);

// A regular file in `directory`, never what a symbolic link of its name points to, and never waiting: anything else
// that has the name, or a file of somebody else's that may not be opened, is FAILED_PRECONDITION. `flags` and `mode` as
// open(2)'s.
absl::StatusOr<Fd> OpenRegularAt(const Fd& directory, const std::string& name, int flags, mode_t mode = 0);

// `name` in `directory`, in words for people: the path by which the directory can be reached now. Keeps errno, for a
// message about it.
std::string PathAt(const Fd& directory, absl::string_view name);

}  // namespace ferrite

#endif  // FERRITE_BASE_DIRECTORY_H_
