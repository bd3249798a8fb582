#include "vmm/control/machine_finder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/socket_file.h"
#include "base/status.h"
#include "vmm/control/base_lock.h"
#include "vmm/control/handed_over.h"
#include "vmm/control/kept_logs.h"
#include "vmm/control/machine_directory.h"
#include "vmm/control/pid_file.h"
#include "vmm/control/run_base.h"

namespace ferrite {
namespace {

// Removes what a killed monitor of ours left; false when one has the name by now, or nothing could be done. A starting
// one has the base's lock until it has its own.
bool RemoveDead(const Fd& base, const std::string& name, const Fd& directory) {
  const auto lock = BaseLock::Take(base);
  const auto pid_file = lock.ok() ? OpenRegularAt(directory, kPidFile, O_RDWR) : lock.status();
  if (!pid_file.ok() || !TryLockPidFile(*pid_file) || GrantIn(directory).has_value()) {
    return false;
  }
  RemoveMachineDirectory(base, name, directory);
  return true;
}

}  // namespace

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
    const Fd directory = OpenMachineDirectory(all, name);
    if (!directory.valid() || (geteuid() != 0 && !IsOwn(directory))) {
      continue;
    }
    const auto pid_file = OpenRegularAt(directory, kPidFile, O_RDONLY);
    if (!pid_file.ok()) {
      continue;
    }
    std::optional<GrantRecord> handed_over;
    if (!IsPidFileLocked(*pid_file)) {
      if (!IsOwn(directory)) {
        continue;
      }
      handed_over = GrantIn(directory);
      if (!handed_over.has_value() &&
          (!may_change || RemoveDead(all, name, directory) || !IsPidFileLocked(*pid_file))) {
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
  Fd directory = OpenMachineDirectory(*all, name);
  if (!directory.valid() && errno != ENOENT && errno != ENOTDIR && errno != ELOOP) {
    return ErrnoStatus(absl::StrCat("open ", JoinPath(base, name)));
  }
  // Root may look at anybody's; others at what is theirs alone.
  if (directory.valid() && geteuid() != 0 && !IsOwn(directory) && !IsOf(TrustedHere().root, directory)) {
    return absl::FailedPreconditionError(
        absl::StrCat(JoinPath(base, name), " is not a directory of this user alone: what is in it may be anybody's"));
  }
  auto pid_file = directory.valid() ? OpenRegularAt(directory, kPidFile, O_RDONLY)
                                    : absl::NotFoundError(absl::StrCat("no directory ", JoinPath(base, name)));
  if (!pid_file.ok() && !absl::IsNotFound(pid_file.status())) {
    return pid_file.status();
  }
  if (!pid_file.ok() || !IsPidFileLocked(*pid_file)) {
    if (const auto grant = HandedOverIn(*all, name); grant.has_value()) {
      return absl::NotFoundError(HandedOverText(name, *grant));
    }
    const std::vector<std::string> logs = KeptLogsIn(*all, name);
    return absl::NotFoundError(
        absl::StrCat("no machine named ", name, " in ", base,
                     !logs.empty() ? absl::StrCat("; the last one failed, its log is ", JoinPath(base, logs.front()))
                                   : "; `ferrite ps` lists those that run"));
  }
  const bool own = IsOwn(directory);
  return FoundMachine{name, ReadPid(*pid_file), std::nullopt, own, std::move(directory)};
}

absl::StatusOr<Fd> ConnectToControlSocket(const FoundMachine& machine, absl::Duration patience) {
  return ConnectAt(machine.directory, kSocketFile, patience);
}

}  // namespace ferrite
