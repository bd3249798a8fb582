#include "base/directory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel's own (path_resolution(7))

std::string Join(absl::string_view directory, absl::string_view name) {
  return absl::StrCat(directory == "/" ? "" : directory, "/", name);
}

// One way through the directories, a component at a time.
class Walk {
 public:
  explicit Walk(const WalkOptions& options) : options_(options) {}

  // From `directory` on, not from where the process is. Before the way begins.
  absl::Status StartAt(const Fd& directory) {
    FERRITE_ASSIGN_OR_RETURN(Fd start, directory.Duplicate());
    return Enter(std::move(start), std::filesystem::path(PathAt(directory, ".")).parent_path().string());
  }

  // To the directory `path`.
  absl::StatusOr<Fd> ToDirectory(const std::string& path) {
    FERRITE_RETURN_IF_ERROR(Begin(path));
    while (!rest_.empty()) {
      FERRITE_RETURN_IF_ERROR(Step(Next()));
    }
    return std::move(at_);
  }

  // To the directory that holds what `path` leads to, and the name that it has there. The name may be that of nothing,
  // or of one of procfs's links to an open file, which only the kernel can follow.
  absl::StatusOr<std::string> ToName(const std::string& path) {
    FERRITE_RETURN_IF_ERROR(Begin(path));
    while (!rest_.empty()) {
      const std::string name = Next();
      if (rest_.empty()) {
        const Fd link(openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        struct stat info = {};
        if (!link.valid() || fstat(link.get(), &info) != 0 || !S_ISLNK(info.st_mode)) {
          return name;
        }
        FERRITE_RETURN_IF_ERROR(CheckLink(name, info));
        if (IsOnProcfs(link)) {
          by_kernel_ = true;
          return name;
        }
        FERRITE_RETURN_IF_ERROR(Unfold(link, name));
        continue;
      }
      FERRITE_RETURN_IF_ERROR(Step(name));
    }
    return std::string(".");
  }

  const Fd& at() const { return at_; }
  bool by_kernel() const { return by_kernel_; }

 private:
  absl::Status Begin(const std::string& path) {
    if (at_.valid() && path.find('/') != 0) {
      Push(path);
      return absl::OkStatus();
    }
    std::error_code error;
    const std::filesystem::path absolute = std::filesystem::absolute(path, error);
    if (error) {
      return ErrnoStatus(error.value(), absl::StrCat("resolve ", path));
    }
    Push(absolute.string());
    return Restart();
  }

  absl::Status Restart() {
    FERRITE_ASSIGN_OR_RETURN(Fd root, OpenFile("/", O_PATH | O_DIRECTORY));
    return Enter(std::move(root), "/");
  }

  void Push(absl::string_view path) {
    const std::vector<std::string> names = absl::StrSplit(path, '/', absl::SkipEmpty());
    for (auto name = names.rbegin(); name != names.rend(); ++name) {
      if (*name != ".") {
        rest_.push_back(*name);
      }
    }
  }

  std::string Next() {
    std::string name = std::move(rest_.back());
    rest_.pop_back();
    return name;
  }

  std::string PathOf(const std::string& name) const {
    return name == ".." ? std::filesystem::path(path_).parent_path().string() : Join(path_, name);
  }

  absl::Status Step(const std::string& name) {
    const std::string path = PathOf(name);
    Fd next(openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid() && errno == ENOENT && options_.made != nullptr) {
      FERRITE_RETURN_IF_ERROR(Make(name));
      next.Reset(openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    }
    struct stat info = {};
    if (!next.valid() || fstat(next.get(), &info) != 0) {
      return ErrnoStatus(absl::StrCat("open ", path));
    }
    if (!S_ISLNK(info.st_mode)) {
      return Enter(std::move(next), path);
    }
    FERRITE_RETURN_IF_ERROR(CheckLink(name, info));
    if (!IsOnProcfs(next)) {
      return Unfold(next, name);
    }
    Fd target(openat(at_.get(), name.c_str(), O_PATH | O_CLOEXEC));
    return target.valid() ? Enter(std::move(target), path) : ErrnoStatus(absl::StrCat("open ", path));
  }

  absl::Status Enter(Fd directory, const std::string& path) {
    struct stat info = {};
    if (fstat(directory.get(), &info) != 0) {
      return ErrnoStatus(absl::StrCat("look at ", path));
    }
    if (!S_ISDIR(info.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is not a directory"));
    }
    if (!options_.through_anybodys) {
      FERRITE_RETURN_IF_ERROR(CheckDirectory(path, info, options_.trusted));
    }
    at_ = std::move(directory);
    path_ = path;
    return absl::OkStatus();
  }

  absl::Status Make(const std::string& name) {
    FERRITE_ASSIGN_OR_RETURN(const bool made, MakeDirectoryAt(at_, name));
    if (made) {
      auto parent = at_.Duplicate();
      Fd directory(openat(at_.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!parent.ok() || !directory.valid()) {
        const absl::Status status = parent.ok() ? ErrnoStatus(absl::StrCat("open ", PathOf(name))) : parent.status();
        (void)unlinkat(at_.get(), name.c_str(), AT_REMOVEDIR);
        return status;
      }
      options_.made->push_back({*std::move(parent), name, std::move(directory)});
    }
    return absl::OkStatus();
  }

  absl::Status CheckLink(const std::string& name, const struct stat& info) {
    const std::string path = PathOf(name);
    if (++links_ > kMaxLinks) {
      return ErrnoStatus(ELOOP, absl::StrCat("open ", path));
    }
    if (!options_.trusted.Include(info.st_uid)) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is a symbolic link that belongs to another user (uid ",
                                                        info.st_uid,
                                                        "), and is not followed; name what it is to lead to"));
    }
    return absl::OkStatus();
  }

  static bool IsOnProcfs(const Fd& link) {
    struct statfs info = {};
    return fstatfs(link.get(), &info) == 0 && info.f_type == PROC_SUPER_MAGIC;
  }

  // Goes on with what `link` says in place of `name`.
  absl::Status Unfold(const Fd& link, const std::string& name) {
    char text[PATH_MAX];
    const ssize_t n = readlinkat(link.get(), "", text, sizeof(text));
    if (n <= 0 || n == static_cast<ssize_t>(sizeof(text))) {
      return ErrnoStatus(n < 0 ? errno : ENAMETOOLONG, absl::StrCat("read the symbolic link ", PathOf(name)));
    }
    Push({text, static_cast<size_t>(n)});
    return text[0] == '/' ? Restart() : absl::OkStatus();
  }

  const WalkOptions& options_;
  Fd at_;
  std::string path_;               // at_, in words
  std::vector<std::string> rest_;  // the next one last
  int links_ = 0;
  bool by_kernel_ = false;
};

// What `path` leads to on `walk`; messages call it `words`.
absl::StatusOr<Fd> OpenAtEnd(Walk& walk, const std::string& path, const std::string& words) {
  FERRITE_ASSIGN_OR_RETURN(const std::string name, walk.ToName(path));
  const int follow = walk.by_kernel() ? 0 : O_NOFOLLOW;
  Fd file(openat(walk.at().get(), name.c_str(), O_PATH | O_CLOEXEC | follow));
  return file.valid() ? absl::StatusOr<Fd>(std::move(file)) : ErrnoStatus(words);
}

}  // namespace

TrustedUsers TrustedHere() {
  TrustedUsers trusted = {.user = geteuid(), .root = 0};
  if (struct stat root = {}; stat("/", &root) == 0) {
    trusted.root = root.st_uid;
  }
  return trusted;
}

absl::Status CheckDirectory(absl::string_view path, const struct stat& info, const TrustedUsers& trusted) {
  if (!trusted.Include(info.st_uid)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the directory ", path, " belongs to another user (uid ", info.st_uid, ")"));
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (info.st_mode & S_ISVTX) == 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("others may rename what is in the directory %s (its mode is %04o: chmod go-w or +t it)", path,
                        static_cast<unsigned>(info.st_mode & 07777)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Fd> WalkToDirectory(const std::string& path, const WalkOptions& options) {
  return Walk(options).ToDirectory(path);
}

absl::StatusOr<Fd> FindFile(const std::string& path, const TrustedUsers& trusted) {
  const WalkOptions options = {.trusted = trusted, .through_anybodys = true, .made = nullptr};
  Walk walk(options);
  return OpenAtEnd(walk, path, path);
}

absl::StatusOr<Fd> FindFileAt(const Fd& directory, const std::string& path, const TrustedUsers& trusted) {
  const WalkOptions options = {.trusted = trusted, .through_anybodys = true, .made = nullptr};
  Walk walk(options);
  FERRITE_RETURN_IF_ERROR(walk.StartAt(directory));
  return OpenAtEnd(walk, path, PathAt(directory, path));
}

absl::StatusOr<Fd> FindDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == path.npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a directory"));
  }
  const std::string directory = slash == path.npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  FERRITE_ASSIGN_OR_RETURN(const Fd found, FindFile(directory));
  Fd opened(openat(found.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return opened.valid() ? absl::StatusOr<Fd>(std::move(opened)) : ErrnoStatus(absl::StrCat("open ", directory));
}

absl::StatusOr<Fd> OpenForAppending(const std::string& path, AppendTo what, const TrustedUsers& trusted) {
  const WalkOptions options = {.trusted = trusted, .through_anybodys = true, .made = nullptr};
  Walk walk(options);
  auto name = walk.ToName(path);
  if (!name.ok()) {
    return absl::IsNotFound(name.status()) ? ErrnoStatus(ENOENT, absl::StrCat("open ", path)) : name.status();
  }
  const int follow = walk.by_kernel() ? 0 : O_NOFOLLOW;
  Fd file(openat(walk.at().get(), name->c_str(),
                 O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | follow, 0600));
  const bool unread = !file.valid() && errno == ENXIO;  // a FIFO without a reader, a socket
  if (!file.valid() && (!unread || what == AppendTo::kAnything)) {
    return ErrnoStatus(absl::StrCat("open ", path));
  }
  struct stat info = {};
  if (what == AppendTo::kRegularFile && (unread || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  return file;
}

void RemoveDirectories(const std::vector<MadeDirectory>& made) {
  for (auto directory = made.rbegin(); directory != made.rend(); ++directory) {
    if (IsNamed(directory->parent.get(), directory->name, directory->directory)) {
      (void)unlinkat(directory->parent.get(), directory->name.c_str(), AT_REMOVEDIR);
    }
  }
}

bool IsNamed(int directory, const std::string& name, const Fd& file) {
  struct stat named = {};
  struct stat own = {};
  return fstatat(directory, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(file.get(), &own) == 0 &&
         named.st_dev == own.st_dev && named.st_ino == own.st_ino;
}

absl::StatusOr<bool> MakeDirectoryAt(const Fd& directory, const std::string& name) {
  constexpr mode_t kMode = 0700;
  if (mkdirat(directory.get(), name.c_str(), kMode) != 0) {
    if (errno == EEXIST) {
      return false;
    }
    return ErrnoStatus(absl::StrCat("make the directory ", PathAt(directory, name)));
  }
  const Fd made(openat(directory.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info = {};
  // A umask may have taken from the mode. By way of procfs, because fchmod(2) wants what open(2) would not give then.
  if (made.valid() && fstat(made.get(), &info) == 0 && (info.st_mode & 0777) != kMode &&
      chmod(DescriptorPath(made.get()).c_str(), kMode) != 0) {
    return ErrnoStatus(absl::StrCat("set the mode of ", PathAt(directory, name)));
  }
  return true;
}

absl::StatusOr<Fd> OpenRegularAt(const Fd& directory, const std::string& name, int flags, mode_t mode) {
  Fd file(openat(directory.get(), name.c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, mode));
  // A link, a FIFO without a reader, a socket, a directory.
  const bool odd = !file.valid() && (errno == ELOOP || errno == ENXIO || errno == EISDIR);
  struct stat info = {};
  if (!file.valid() && !odd) {
    const absl::Status status = ErrnoStatus(absl::StrCat("open ", PathAt(directory, name)));
    // What others put into a directory with the sticky bit is kept from those who would make it (protected_regular of
    // proc_sys_fs(5)), from root as well.
    if (errno == EACCES && fstatat(directory.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        info.st_uid != geteuid()) {
      return absl::FailedPreconditionError(
          absl::StrCat(PathAt(directory, name), " belongs to another user (uid ", info.st_uid, ")"));
    }
    return status;
  }
  if (odd || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(PathAt(directory, name), " is not a regular file"));
  }
  return file;
}

std::string PathAt(const Fd& directory, absl::string_view name) {
  const int error = errno;
  char text[PATH_MAX];
  const ssize_t n = readlink(DescriptorPath(directory.get()).c_str(), text, sizeof(text));
  errno = error;
  return n > 0 ? Join({text, static_cast<size_t>(n)}, name) : std::string(name);
}

}  // namespace ferrite
