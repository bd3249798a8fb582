#include "vmm/control/run_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/status.h"

namespace ferrite {
namespace {

constexpr char kSocketFile[] = "control.sock";
constexpr char kPidFile[] = "ferrite.pid";
constexpr char kLogFile[] = "ferrite.log";
constexpr char kGrantFile[] = "grant";
constexpr char kUnfinishedGrantFile[] = "grant.new";  // never said to anybody
constexpr size_t kMaxNameLength = 64;
// Changes of a base directory take milliseconds: a lock that is held for longer is not one of ours.
constexpr absl::Duration kLockPatience = absl::Seconds(10);
constexpr absl::Duration kLockPoll = absl::Milliseconds(2);  // flock(2) can only wait without a limit
// How often the base directory that is being made may be taken away by a monitor that ends.
constexpr int kMakeAttempts = 20;

std::string Join(absl::string_view directory, absl::string_view file) { return absl::StrCat(directory, "/", file); }

std::string KeptLogPath(absl::string_view base, absl::string_view name) {
  return Join(base, absl::StrCat(name, ".failed.log"));
}

// Open file description locks belong to the open file, not to the process: closing another descriptor of the same file
// somewhere in the process does not drop them.
struct flock WholeFile(short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

// Whether somebody holds the lock on `pid_file`; asking does not take it, so that asking never disturbs a start.
bool IsLocked(const Fd& pid_file) {
  struct flock lock = WholeFile(F_WRLCK);
  return fcntl(pid_file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool TryLock(const Fd& pid_file) {
  struct flock lock = WholeFile(F_WRLCK);
  return fcntl(pid_file.get(), F_OFD_SETLK, &lock) == 0;
}

pid_t ReadPid(const Fd& pid_file) {
  char text[32];
  const ssize_t n = pread(pid_file.get(), text, sizeof(text), 0);
  int32_t pid = 0;
  if (n <= 0 || !absl::SimpleAtoi(absl::string_view(text, static_cast<size_t>(n)), &pid)) {
    return 0;
  }
  return pid;
}

// Taken by whoever changes a base directory; dropped with the descriptor.
absl::StatusOr<Fd> LockBase(const std::string& base) {
  FERRITE_ASSIGN_OR_RETURN(Fd fd, OpenFile(base, O_RDONLY | O_DIRECTORY));
  const MonotonicTime deadline = MonotonicTime::Now() + kLockPatience;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EINTR && errno != EWOULDBLOCK) {
      return ErrnoStatus(absl::StrCat("lock ", base));
    }
    if (MonotonicTime::Now() >= deadline) {
      return absl::UnavailableError(absl::StrCat("run directory ", base, " is locked by another process for ",
                                                 absl::FormatDuration(kLockPatience),
                                                 " already; end that or choose another --run-dir"));
    }
    absl::SleepFor(kLockPoll);
  }
  return fd;
}

// The directory itself, never what a symbolic link of its name points to.
absl::StatusOr<Fd> OpenDirectory(const std::string& path) {
  return OpenFile(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

bool IsOwn(const Fd& directory) {
  struct stat info = {};
  return fstat(directory.get(), &info) == 0 && info.st_uid == geteuid();
}

// Removes our files of a machine and, when nothing else is in it, its directory. The pid file goes last: as long as it
// is there, whoever finds the directory knows what it is.
void RemoveFiles(const Fd& directory, const std::string& path) {
  for (const char* file : {kSocketFile, kLogFile, kGrantFile, kUnfinishedGrantFile, kPidFile}) {
    (void)unlinkat(directory.get(), file, 0);
  }
  (void)rmdir(path.c_str());
}

// Of a machine whose monitor does not live.
std::optional<GrantRecord> GrantIn(const Fd& directory) {
  auto record = ReadGrantRecord(directory);
  if (absl::IsNotFound(record.status())) {
    return std::nullopt;
  }
  return record.ok() ? *std::move(record) : GrantRecord{.where = "an address that cannot be read any more"};
}

// Those that are empty; `made` is in the order in which they were made.
void RemoveDirectories(const std::vector<std::string>& made) {
  for (auto path = made.rbegin(); path != made.rend(); ++path) {
    (void)rmdir(path->c_str());
  }
}

// Adds the directories that it makes to `made`.
absl::Status MakeDirectories(const std::filesystem::path& path, std::vector<std::string>& made) {
  std::error_code error;
  if (path.empty() || std::filesystem::is_directory(path, error)) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(MakeDirectories(path.parent_path(), made));
  if (mkdir(path.c_str(), 0777) == 0) {
    made.push_back(path.string());
  } else if (errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make the directory ", path.string()));
  }
  return absl::OkStatus();
}

absl::Status MakeBase(const std::string& base, std::vector<std::string>& made) {
  FERRITE_RETURN_IF_ERROR(MakeDirectories(std::filesystem::path(base).parent_path(), made));
  if (mkdir(base.c_str(), 0700) == 0) {
    made.push_back(base);
  } else if (errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make the run directory ", base));
  }
  return CheckRunBase(base);
}

// Makes the base and locks it. A monitor that ends may take one away that it made and that nobody uses.
absl::StatusOr<Fd> MakeAndLockBase(const std::string& base, std::vector<std::string>& made) {
  absl::Status status;
  for (int attempt = 0; attempt < kMakeAttempts; ++attempt) {
    status = MakeBase(base, made);
    if (status.ok()) {
      auto lock = LockBase(base);
      struct stat locked = {};
      struct stat named = {};
      if (lock.ok() && fstat(lock->get(), &locked) == 0 && stat(base.c_str(), &named) == 0 &&
          locked.st_dev == named.st_dev && locked.st_ino == named.st_ino) {
        return lock;
      }
      status = lock.ok() ? absl::NotFoundError(absl::StrCat("run directory ", base, " was removed")) : lock.status();
    }
    if (!absl::IsNotFound(status)) {
      break;
    }
  }
  return status;
}

// `path` is a directory of ours. In a base that others may write to (/tmp), somebody else's directory or a symbolic
// link could wait under the name.
absl::StatusOr<Fd> OpenOwnDirectory(const std::string& path) {
  auto directory = OpenDirectory(path);
  if (!directory.ok() || !IsOwn(*directory)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not a directory of this user; remove it or choose another --run-dir"));
  }
  return directory;
}

}  // namespace

absl::Status CheckMachineName(absl::string_view name) {
  const bool characters_ok = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
  if (name.empty() || name.size() > kMaxNameLength || !characters_ok || name[0] == '.' || name[0] == '-') {
    return absl::InvalidArgumentError(
        absl::StrCat("machine name \"", absl::CHexEscape(name.substr(0, 80)), "\": use 1 to ", kMaxNameLength,
                     " of the characters A-Z a-z 0-9 . _ - and begin with none of . and -"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RunBase(absl::string_view option) {
  if (!option.empty()) {
    const absl::string_view trimmed = absl::StripSuffix(option, "/");
    return std::string(trimmed.empty() ? "/" : trimmed);
  }
  if (geteuid() == 0) {
    return std::string("/run/ferrite");
  }
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || runtime[0] != '/') {
    return absl::FailedPreconditionError(
        "no run directory: XDG_RUNTIME_DIR is not set; set it or name a directory with --run-dir DIR");
  }
  return Join(runtime, "ferrite");
}

absl::Status CheckRunBase(const std::string& base) {
  struct stat info = {};
  if (stat(base.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::NotFoundError(absl::StrCat("run directory ", base, " does not exist"))
                           : ErrnoStatus(absl::StrCat("run directory ", base));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("run directory ", base, " is not a directory; choose another with --run-dir"));
  }
  return absl::OkStatus();
}

RunDir::RunDir(std::string base, std::string name, std::string path, std::vector<std::string> made, Fd pid_file)
    : base_(std::move(base)),
      name_(std::move(name)),
      path_(std::move(path)),
      made_(std::move(made)),
      pid_file_(std::move(pid_file)) {}

std::string RunDir::socket_path() const { return Join(path_, kSocketFile); }
std::string RunDir::log_path() const { return Join(path_, kLogFile); }

void RunDir::KeepLog() const {
  // Whoever cannot be told where it is cannot be told that it is lost, either.
  (void)rename(log_path().c_str(), KeptLogPath(base_, name_).c_str());
}

absl::StatusOr<std::unique_ptr<RunDir>> RunDir::Create(const std::string& base, absl::string_view name) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name));
  const std::string path = Join(base, name);
  FERRITE_RETURN_IF_ERROR(CheckSocketPath(Join(path, kSocketFile)));
  std::vector<std::string> made;
  const auto base_lock = MakeAndLockBase(base, made);
  absl::Cleanup remove = [&made] { RemoveDirectories(made); };
  FERRITE_RETURN_IF_ERROR(base_lock.status());
  if (mkdir(path.c_str(), 0700) == 0) {
    made.push_back(path);
  } else if (errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make the directory ", path));
  }
  FERRITE_ASSIGN_OR_RETURN(const Fd directory, OpenOwnDirectory(path));
  FERRITE_ASSIGN_OR_RETURN(Fd pid_file, OpenFile(Join(path, kPidFile), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (!TryLock(pid_file)) {
    return absl::AlreadyExistsError(absl::StrCat("a machine named ", name, " is running already (pid ",
                                                 ReadPid(pid_file),
                                                 "); choose another --name, or end it with: ferrite stop ", name));
  }
  if (const auto grant = GrantIn(directory); grant.has_value()) {
    return absl::FailedPreconditionError(HandedOverText(name, *grant));
  }
  for (const char* file : {kSocketFile, kLogFile, kUnfinishedGrantFile}) {
    (void)unlinkat(directory.get(), file, 0);
  }
  const std::string text = absl::StrCat(getpid(), "\n");
  if (ftruncate(pid_file.get(), 0) != 0 ||
      pwrite(pid_file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    const absl::Status status = ErrnoStatus(absl::StrCat("write ", Join(path, kPidFile)));
    RemoveFiles(directory, path);
    return status;
  }
  (void)unlink(KeptLogPath(base, name).c_str());
  std::move(remove).Cancel();
  return std::unique_ptr<RunDir>(new RunDir(base, std::string(name), path, std::move(made), std::move(pid_file)));
}

RunDir::~RunDir() {
  const auto base_lock = LockBase(base_);
  if (const auto directory = OpenOwnDirectory(path_); directory.ok()) {
    RemoveFiles(*directory, path_);
  }
  RemoveDirectories(made_);
}

absl::StatusOr<std::vector<FoundMachine>> ListMachines(const std::string& base) {
  std::vector<FoundMachine> found;
  const absl::Status there = CheckRunBase(base);
  if (absl::IsNotFound(there)) {
    return found;
  }
  FERRITE_RETURN_IF_ERROR(there);
  const auto base_lock = LockBase(base);
  if (absl::IsNotFound(base_lock.status())) {
    return found;
  }
  FERRITE_RETURN_IF_ERROR(base_lock.status());
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(base, error)) {
    const std::string name = entry.path().filename().string();
    if (!CheckMachineName(name).ok()) {
      continue;
    }
    const auto directory = OpenDirectory(entry.path().string());
    if (!directory.ok()) {
      continue;
    }
    // O_RDWR: the lock that proves a machine dead is an exclusive one.
    const Fd pid_file(openat(directory->get(), kPidFile, O_RDWR | O_NOFOLLOW | O_CLOEXEC));
    if (!pid_file.valid()) {
      continue;
    }
    std::optional<GrantRecord> handed_over;
    if (TryLock(pid_file)) {
      if (!IsOwn(*directory)) {
        continue;
      }
      handed_over = GrantIn(*directory);
      if (!handed_over.has_value()) {
        RemoveFiles(*directory, entry.path().string());
        continue;
      }
    }
    found.push_back({name, ReadPid(pid_file), Join(entry.path().string(), kSocketFile), std::move(handed_over)});
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return ErrnoStatus(error.value(), absl::StrCat("read the run directory ", base));
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return found;
}

absl::StatusOr<FoundMachine> FindMachine(const std::string& base, absl::string_view name) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name));
  const absl::Status there = CheckRunBase(base);
  if (absl::IsNotFound(there)) {
    return Annotate(there, absl::StrCat("no machine named ", name));
  }
  FERRITE_RETURN_IF_ERROR(there);
  const std::string path = Join(base, name);
  auto pid_file = OpenFile(Join(path, kPidFile), O_RDONLY | O_NOFOLLOW);
  if (!pid_file.ok() && !absl::IsNotFound(pid_file.status())) {
    return pid_file.status();
  }
  if (!pid_file.ok() || !IsLocked(*pid_file)) {
    if (const auto grant = HandedOver(base, name); grant.has_value()) {
      return absl::NotFoundError(HandedOverText(name, *grant));
    }
    const std::string log = KeptLogPath(base, name);
    return absl::NotFoundError(absl::StrCat("no machine named ", name, " in ", base,
                                            access(log.c_str(), F_OK) == 0
                                                ? absl::StrCat("; the last one failed, its log is ", log)
                                                : "; `ferrite ps` lists those that run"));
  }
  return FoundMachine{std::string(name), ReadPid(*pid_file), Join(path, kSocketFile), std::nullopt};
}

std::optional<GrantRecord> HandedOver(const std::string& base, absl::string_view name) {
  const auto directory = OpenOwnDirectory(Join(base, name));
  if (!directory.ok()) {
    return std::nullopt;
  }
  const Fd pid_file(openat(directory->get(), kPidFile, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  return pid_file.valid() && !IsLocked(pid_file) ? GrantIn(*directory) : std::nullopt;
}

std::string HandedOverText(absl::string_view name, const GrantRecord& grant) {
  return absl::StrCat("the monitor of machine ", name, " is gone, and its guest was handed over to ", grant.where,
                      " (epoch ", grant.epoch, "): it runs there or nowhere, and memory that was not sent is lost; ",
                      "`ferrite info` there tells. To forget it here: ferrite stop ", name, " --force");
}

absl::Status ForgetHandedOver(const std::string& base, absl::string_view name) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name));
  FERRITE_RETURN_IF_ERROR(CheckRunBase(base));
  FERRITE_ASSIGN_OR_RETURN(const Fd base_lock, LockBase(base));
  const std::string path = Join(base, name);
  const auto directory = OpenOwnDirectory(path);
  const Fd pid_file(directory.ok() ? openat(directory->get(), kPidFile, O_RDWR | O_NOFOLLOW | O_CLOEXEC) : -1);
  if (!pid_file.valid() || !TryLock(pid_file) || !GrantIn(*directory).has_value()) {
    return absl::NotFoundError(absl::StrCat("no machine named ", name, " was handed over by a monitor that is gone"));
  }
  RemoveFiles(*directory, path);
  return absl::OkStatus();
}

}  // namespace ferrite
