#include "vmm/control/run_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/unix_socket.h"

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

std::string KeptLog(absl::string_view name) { return absl::StrCat(name, ".failed.log"); }

// Whether `file` is that, or another log of it that KeepLog() left.
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

absl::Status Refused(absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(why, "; choose another with --run-dir"));
}

// `made` as WalkOptions says.
absl::StatusOr<Fd> OpenBase(const std::string& base, const WalkOptions& options) {
  auto directory = WalkToDirectory(base, options);
  if (absl::IsNotFound(directory.status())) {
    return absl::NotFoundError(absl::StrCat("run directory ", base, " does not exist"));
  }
  if (absl::IsFailedPrecondition(directory.status())) {
    const absl::string_view why = directory.status().message();
    return Refused(absl::StartsWith(why, base) ? absl::StrCat("run directory ", why)
                                               : absl::StrCat("run directory ", base, ": ", why));
  }
  return directory;
}

// For whoever changes nothing in it.
absl::StatusOr<Fd> OpenBaseToLook(const std::string& base) {
  return OpenBase(base, {.through_anybodys = geteuid() == 0});
}

// Held by whoever changes this user's directories in a base. The file goes with the lock, so that nothing is left.
class BaseLock {
 public:
  // `base` outlives the lock, under whatever owner.
  static absl::StatusOr<BaseLock> Take(const Fd& base) {
    std::string name = absl::StrCat(".lock.", geteuid());
    const MonotonicTime deadline = MonotonicTime::Now() + kLockPatience;
    while (true) {
      auto opened = OpenRegularAt(base, name, O_RDWR | O_CREAT, 0600);
      if (absl::IsFailedPrecondition(opened.status())) {
        return Refused(opened.status().message());
      }
      FERRITE_ASSIGN_OR_RETURN(Fd file, std::move(opened));
      struct stat info = {};
      if (fstat(file.get(), &info) != 0 || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
        return Refused(absl::StrCat(PathAt(base, name), " is not this user's alone: remove it"));
      }
      if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
        // Whoever held it before may have removed it.
        if (IsNamed(base.get(), name, file)) {
          return BaseLock(base.get(), std::move(name), std::move(file));
        }
      } else if (errno != EINTR && errno != EWOULDBLOCK) {
        return ErrnoStatus(absl::StrCat("lock ", PathAt(base, name)));
      }
      if (MonotonicTime::Now() >= deadline) {
        return absl::UnavailableError(absl::StrCat("another process keeps the lock ", PathAt(base, name), " for ",
                                                   absl::FormatDuration(kLockPatience),
                                                   " already; end that or choose another --run-dir"));
      }
      absl::SleepFor(kLockPoll);
    }
  }
  BaseLock(BaseLock&&) = default;
  BaseLock& operator=(BaseLock&&) = delete;
  ~BaseLock() {
    if (file_.valid() && IsNamed(base_, name_, file_)) {
      (void)unlinkat(base_, name_.c_str(), 0);
    }
  }

 private:
  BaseLock(int base, std::string name, Fd file) : base_(base), name_(std::move(name)), file_(std::move(file)) {}

  const int base_;
  const std::string name_;
  Fd file_;
};

// The lock goes first.
struct LockedBase {
  Fd directory;
  BaseLock lock;
};

// Makes the base and locks it. A monitor that ends may take one away that it made and that nobody uses.
absl::StatusOr<LockedBase> MakeAndLockBase(const std::string& base, std::vector<MadeDirectory>& made) {
  absl::Status status;
  for (int attempt = 0; attempt < kMakeAttempts; ++attempt) {
    auto directory = OpenBase(base, {.made = &made});
    status = directory.status();
    if (status.ok()) {
      auto lock = BaseLock::Take(*directory);
      if (lock.ok()) {
        return LockedBase{*std::move(directory), *std::move(lock)};
      }
      status = lock.status();
    }
    if (!absl::IsNotFound(status)) {
      break;
    }
  }
  return status;
}

// The directory itself, never what a symbolic link of its name points to.
Fd OpenDirectoryIn(const Fd& base, const std::string& name) {
  return Fd(openat(base.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Whether it is `user`'s, and nobody else may put anything into it.
bool IsOf(uid_t user, const Fd& directory) {
  struct stat info = {};
  return fstat(directory.get(), &info) == 0 && info.st_uid == user && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

bool IsOwn(const Fd& directory) { return IsOf(geteuid(), directory); }

// A machine's directory, which is ours. In a base that others may write to (/tmp), somebody else's directory or a
// symbolic link could wait under the name.
absl::StatusOr<Fd> OpenOwnDirectory(const Fd& base, const std::string& name) {
  Fd directory = OpenDirectoryIn(base, name);
  if (!directory.valid() && errno != ENOTDIR && errno != ELOOP) {
    return ErrnoStatus(absl::StrCat("open ", PathAt(base, name)));
  }
  if (!directory.valid() || !IsOwn(directory)) {
    return absl::FailedPreconditionError(absl::StrCat(
        PathAt(base, name), " is not a directory of this user alone; remove it or choose another --run-dir"));
  }
  return directory;
}

// Removes our files of a machine and, when nothing else is in it, its directory, if the name is still that directory's.
// The pid file goes last: as long as it is there, whoever finds the directory knows what it is.
void RemoveMachine(const Fd& base, const std::string& name, const Fd& directory) {
  for (const char* file : {kSocketFile, kLogFile, kGrantFile, kUnfinishedGrantFile, kPidFile}) {
    (void)unlinkat(directory.get(), file, 0);
  }
  // One that was made just now, and could not be opened, is nobody else's.
  if (!directory.valid() || IsNamed(base.get(), name, directory)) {
    (void)unlinkat(base.get(), name.c_str(), AT_REMOVEDIR);
  }
}

// The record of a machine whose monitor does not live. One that cannot be read counts, too.
std::optional<GrantRecord> GrantIn(const Fd& directory) {
  auto record = ReadGrantRecord(directory);
  if (absl::IsNotFound(record.status())) {
    return std::nullopt;
  }
  return record.ok() ? *std::move(record) : GrantRecord{.where = "an address that cannot be read any more"};
}

// Whether the guest of that machine was not handed over.
absl::Status CheckNoGrant(const Fd& directory, absl::string_view name) {
  const absl::Status record = ReadGrantRecord(directory).status();
  if (absl::IsNotFound(record)) {
    return absl::OkStatus();
  }
  if (!record.ok() && !absl::IsDataLoss(record)) {
    return record;
  }
  return absl::FailedPreconditionError(HandedOverText(name, *GrantIn(directory)));
}

std::optional<GrantRecord> HandedOverIn(const Fd& base, const std::string& name) {
  const auto directory = OpenOwnDirectory(base, name);
  if (!directory.ok()) {
    return std::nullopt;
  }
  const auto pid_file = OpenRegularAt(*directory, kPidFile, O_RDONLY);
  return pid_file.ok() && !IsLocked(*pid_file) ? GrantIn(*directory) : std::nullopt;
}

// Removes what a killed monitor of ours left; false when one has the name by now, or nothing could be done. A starting
// one has the base's lock until it has its own.
bool RemoveDead(const Fd& base, const std::string& name, const Fd& directory) {
  const auto lock = BaseLock::Take(base);
  const auto pid_file = lock.ok() ? OpenRegularAt(directory, kPidFile, O_RDWR) : lock.status();
  if (!pid_file.ok() || !TryLock(*pid_file) || GrantIn(directory).has_value()) {
    return false;
  }
  RemoveMachine(base, name, directory);
  return true;
}

absl::StatusOr<std::vector<std::string>> NamesIn(const Fd& directory) {
  Fd fd(openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* const stream = fd.valid() ? fdopendir(fd.get()) : nullptr;
  if (stream == nullptr) {
    return ErrnoStatus(absl::StrCat("read the run directory ", PathAt(directory, "")));
  }
  (void)fd.Release();
  const absl::Cleanup close = [stream] { (void)closedir(stream); };
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    names.emplace_back(entry->d_name);
    errno = 0;
  }
  if (errno != 0 && errno != ENOENT) {
    return ErrnoStatus(absl::StrCat("read the run directory ", PathAt(directory, "")));
  }
  return names;
}

bool IsOwnFile(const Fd& base, const std::string& name) {
  struct stat info = {};
  return fstatat(base.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode) &&
         info.st_uid == geteuid();
}

// This user's logs of machines of that name that KeepLog() left.
std::vector<std::string> KeptLogsIn(const Fd& base, absl::string_view name) {
  std::vector<std::string> logs;
  for (std::string& file : NamesIn(base).value_or(std::vector<std::string>())) {
    if (IsKeptLog(name, file) && IsOwnFile(base, file)) {
      logs.push_back(std::move(file));
    }
  }
  return logs;
}

// Locked, with our process id in it.
absl::StatusOr<Fd> TakePidFile(const Fd& directory, absl::string_view name) {
  FERRITE_ASSIGN_OR_RETURN(Fd pid_file, OpenRegularAt(directory, kPidFile, O_RDWR | O_CREAT, 0600));
  struct stat info = {};
  if (fstat(pid_file.get(), &info) != 0 || info.st_uid != geteuid() || info.st_nlink > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(PathAt(directory, kPidFile), " is not a file of this user alone"));
  }
  if (!TryLock(pid_file)) {
    return absl::AlreadyExistsError(absl::StrCat("a machine named ", name, " is running already (pid ",
                                                 ReadPid(pid_file),
                                                 "); choose another --name, or end it with: ferrite stop ", name));
  }
  return pid_file;
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

absl::Status CheckRunBase(const std::string& base) { return OpenBaseToLook(base).status(); }

std::string RunDir::socket_path() const { return Join(path_, kSocketFile); }
std::string RunDir::log_path() const { return Join(path_, kLogFile); }

absl::StatusOr<Fd> RunDir::CreateLog() const {
  return OpenRegularAt(directory_, kLogFile, O_WRONLY | O_APPEND | O_CREAT | O_EXCL, 0600);
}

absl::StatusOr<Fd> RunDir::ListenOnControlSocket() const { return ListenAt(directory_, kSocketFile); }

bool RunDir::IsAnothers() const {
  struct stat info = {};
  return fstatat(directory_.get(), kPidFile, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
         !IsNamed(directory_.get(), kPidFile, pid_file_);
}

void RunDir::KeepLog() const {
  if (IsAnothers()) {
    return;
  }
  if (renameat(directory_.get(), kLogFile, base_.get(), KeptLog(name_).c_str()) == 0 || errno == ENOENT) {
    return;
  }
  // Something of somebody else's is there: a name that he cannot know before.
  uint64_t number = 0;
  (void)!getrandom(&number, sizeof(number), 0);
  // Whoever cannot be told where it is cannot be told that it is lost, either.
  (void)renameat2(directory_.get(), kLogFile, base_.get(), absl::StrCat(name_, ".failed.", number, ".log").c_str(),
                  RENAME_NOREPLACE);
}

absl::StatusOr<std::unique_ptr<RunDir>> RunDir::Create(const std::string& base, absl::string_view name_view) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name_view));
  const std::string name(name_view);
  const std::string path = Join(base, name);
  FERRITE_RETURN_IF_ERROR(CheckSocketPath(Join(path, kSocketFile)));
  std::vector<MadeDirectory> made;
  absl::Cleanup remove_made = [&made] { RemoveDirectories(made); };
  FERRITE_ASSIGN_OR_RETURN(LockedBase locked, MakeAndLockBase(base, made));
  FERRITE_ASSIGN_OR_RETURN(const bool is_new, MakeDirectoryAt(locked.directory, name));
  Fd directory;
  absl::Cleanup remove_new = [&] {
    if (is_new) {
      RemoveMachine(locked.directory, name, directory);
    }
  };
  FERRITE_ASSIGN_OR_RETURN(directory, OpenOwnDirectory(locked.directory, name));
  FERRITE_ASSIGN_OR_RETURN(Fd pid_file, TakePidFile(directory, name));
  FERRITE_RETURN_IF_ERROR(CheckNoGrant(directory, name));
  for (const char* file : {kSocketFile, kLogFile, kUnfinishedGrantFile}) {
    (void)unlinkat(directory.get(), file, 0);
  }
  const std::string text = absl::StrCat(getpid(), "\n");
  if (ftruncate(pid_file.get(), 0) != 0 ||
      pwrite(pid_file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    const absl::Status status = ErrnoStatus(absl::StrCat("write ", Join(path, kPidFile)));
    RemoveMachine(locked.directory, name, directory);
    return status;
  }
  for (const std::string& log : KeptLogsIn(locked.directory, name)) {
    (void)unlinkat(locked.directory.get(), log.c_str(), 0);
  }
  std::move(remove_new).Cancel();
  std::move(remove_made).Cancel();
  return std::unique_ptr<RunDir>(
      new RunDir(std::move(made), std::move(locked.directory), name, path, std::move(directory), std::move(pid_file)));
}

RunDir::~RunDir() {
  {
    const auto lock = BaseLock::Take(base_);
    if (!IsAnothers()) {
      RemoveMachine(base_, name_, directory_);
    }
  }
  RemoveDirectories(made_);
}

absl::StatusOr<std::vector<FoundMachine>> ListMachines(const std::string& base) {
  std::vector<FoundMachine> found;
  auto directory_of_all = OpenBase(base, {});
  const bool may_change = directory_of_all.ok();
  if (absl::IsFailedPrecondition(directory_of_all.status()) && geteuid() == 0) {
    directory_of_all = OpenBaseToLook(base);
  }
  if (absl::IsNotFound(directory_of_all.status())) {
    return found;
  }
  FERRITE_ASSIGN_OR_RETURN(const Fd all, std::move(directory_of_all));
  FERRITE_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(all));
  for (const std::string& name : names) {
    if (!CheckMachineName(name).ok()) {
      continue;
    }
    const Fd directory = OpenDirectoryIn(all, name);
    if (!directory.valid() || (geteuid() != 0 && !IsOwn(directory))) {
      continue;
    }
    const auto pid_file = OpenRegularAt(directory, kPidFile, O_RDONLY);
    if (!pid_file.ok()) {
      continue;
    }
    std::optional<GrantRecord> handed_over;
    if (!IsLocked(*pid_file)) {
      if (!IsOwn(directory)) {
        continue;
      }
      handed_over = GrantIn(directory);
      if (!handed_over.has_value() && (!may_change || RemoveDead(all, name, directory) || !IsLocked(*pid_file))) {
        continue;
      }
    }
    found.push_back({name, ReadPid(*pid_file), std::move(handed_over), IsOwn(directory), Fd()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return found;
}

absl::StatusOr<FoundMachine> FindMachine(const std::string& base, absl::string_view name_view) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name_view));
  const std::string name(name_view);
  auto all = OpenBaseToLook(base);
  if (absl::IsNotFound(all.status())) {
    return Annotate(all.status(), absl::StrCat("no machine named ", name));
  }
  FERRITE_RETURN_IF_ERROR(all.status());
  Fd directory = OpenDirectoryIn(*all, name);
  if (!directory.valid() && errno != ENOENT && errno != ENOTDIR && errno != ELOOP) {
    return ErrnoStatus(absl::StrCat("open ", Join(base, name)));
  }
  // Root may look at anybody's; others at what is theirs alone.
  if (directory.valid() && geteuid() != 0 && !IsOwn(directory) && !IsOf(TrustedHere().root, directory)) {
    return absl::FailedPreconditionError(
        absl::StrCat(Join(base, name), " is not a directory of this user alone: what is in it may be anybody's"));
  }
  auto pid_file = directory.valid() ? OpenRegularAt(directory, kPidFile, O_RDONLY)
                                    : absl::NotFoundError(absl::StrCat("no directory ", Join(base, name)));
  if (!pid_file.ok() && !absl::IsNotFound(pid_file.status())) {
    return pid_file.status();
  }
  if (!pid_file.ok() || !IsLocked(*pid_file)) {
    if (const auto grant = HandedOverIn(*all, name); grant.has_value()) {
      return absl::NotFoundError(HandedOverText(name, *grant));
    }
    const std::vector<std::string> logs = KeptLogsIn(*all, name);
    return absl::NotFoundError(
        absl::StrCat("no machine named ", name, " in ", base,
                     !logs.empty() ? absl::StrCat("; the last one failed, its log is ", Join(base, logs.front()))
                                   : "; `ferrite ps` lists those that run"));
  }
  const bool own = IsOwn(directory);
  return FoundMachine{name, ReadPid(*pid_file), std::nullopt, own, std::move(directory)};
}

absl::StatusOr<Fd> ConnectToControlSocket(const FoundMachine& machine, absl::Duration patience) {
  return ConnectAt(machine.directory, kSocketFile, patience);
}

std::optional<GrantRecord> HandedOver(const std::string& base, absl::string_view name) {
  const auto all = CheckMachineName(name).ok() ? OpenBaseToLook(base) : absl::NotFoundError("no such machine");
  return all.ok() ? HandedOverIn(*all, std::string(name)) : std::nullopt;
}

std::string HandedOverText(absl::string_view name, const GrantRecord& grant) {
  return absl::StrCat("the monitor of machine ", name, " is gone, and its guest was handed over to ", grant.where,
                      " (epoch ", grant.epoch, "): it runs there or nowhere, and memory that was not sent is lost; ",
                      "`ferrite info` there tells. To forget it here: ferrite stop ", name, " --force");
}

absl::Status ForgetHandedOver(const std::string& base, absl::string_view name_view) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name_view));
  const std::string name(name_view);
  FERRITE_ASSIGN_OR_RETURN(const Fd all, OpenBase(base, {}));
  FERRITE_ASSIGN_OR_RETURN(const BaseLock lock, BaseLock::Take(all));
  const auto directory = OpenOwnDirectory(all, name);
  const auto pid_file = directory.ok() ? OpenRegularAt(*directory, kPidFile, O_RDWR) : directory.status();
  if (!pid_file.ok() || !TryLock(*pid_file) || !GrantIn(*directory).has_value()) {
    return absl::NotFoundError(absl::StrCat("no machine named ", name, " was handed over by a monitor that is gone"));
  }
  RemoveMachine(all, name, *directory);
  return absl::OkStatus();
}

}  // namespace ferrite
