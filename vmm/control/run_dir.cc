#include "vmm/control/run_dir.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/socket_file.h"
#include "base/status.h"
#include "base/unix_socket.h"
#include "vmm/control/base_lock.h"
#include "vmm/control/handed_over.h"
#include "vmm/control/kept_logs.h"
#include "vmm/control/machine_directory.h"
#include "vmm/control/pid_file.h"

namespace ferrite {

std::string RunDir::socket_path() const { return JoinPath(path_, kSocketFile); }
std::string RunDir::log_path() const { return JoinPath(path_, kLogFile); }

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
  if (renameat(directory_.get(), kLogFile, base_.get(), KeptLogName(name_).c_str()) == 0 || errno == ENOENT) {
    return;
  }
  // Something of somebody else's is there: a name that he cannot know before.
  uint64_t number = 0;
  (void)!getrandom(&number, sizeof(number), 0);
  // Whoever cannot be told where it is cannot be told that it is lost, either.
  (void)renameat2(directory_.get(), kLogFile, base_.get(), KeptLogName(name_, number).c_str(), RENAME_NOREPLACE);
}

absl::StatusOr<std::unique_ptr<RunDir>> RunDir::Create(const std::string& base, absl::string_view name_view) {
  FERRITE_RETURN_IF_ERROR(CheckMachineName(name_view));
  const std::string name(name_view);
  const std::string path = JoinPath(base, name);
  FERRITE_RETURN_IF_ERROR(CheckSocketPath(JoinPath(path, kSocketFile)));
  std::vector<MadeDirectory> made;
  absl::Cleanup remove_made = [&made] { RemoveDirectories(made); };
  FERRITE_ASSIGN_OR_RETURN(LockedBase locked, MakeAndLockBase(base, made));
  FERRITE_ASSIGN_OR_RETURN(const bool is_new, MakeDirectoryAt(locked.directory, name));
  Fd directory;
  absl::Cleanup remove_new = [&] {
    if (is_new) {
      RemoveMachineDirectory(locked.directory, name, directory);
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
    const absl::Status status = ErrnoStatus(absl::StrCat("write ", JoinPath(path, kPidFile)));
    RemoveMachineDirectory(locked.directory, name, directory);
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
      RemoveMachineDirectory(base_, name_, directory_);
    }
  }
  RemoveDirectories(made_);
}

}  // namespace ferrite
