#include "vmm/control/machine_connection.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "vmm/control/handed_over.h"
#include "vmm/control/machine_finder.h"

namespace ferrite {
namespace {

constexpr absl::Duration kEndPatience = absl::Seconds(1);
constexpr absl::Duration kLockPoll = absl::Milliseconds(5);

// Whether the machine of that directory lives.
bool Lives(const AskedMachine& asked, const Fd& directory) {
  const auto found = FindMachine(asked.base, asked.name);
  struct stat then = {};
  struct stat now = {};
  return found.ok() && fstat(directory.get(), &then) == 0 && fstat(found->directory.get(), &now) == 0 &&
         then.st_dev == now.st_dev && then.st_ino == now.st_ino;
}

}  // namespace

absl::StatusOr<MachineConnection> ConnectTo(const AskedMachine& asked) {
  FERRITE_ASSIGN_OR_RETURN(FoundMachine found, FindMachine(asked.base, asked.name));
  auto socket = ConnectToControlSocket(found, asked.timeout);
  if (absl::IsNotFound(socket.status()) || absl::IsUnavailable(socket.status())) {
    return absl::UnavailableError(
        absl::StrCat("machine ", asked.name, " (pid ", found.pid, ") is just starting or ending; try again"));
  }
  FERRITE_RETURN_IF_ERROR(socket.status());
  return MachineConnection{*std::move(socket), std::move(found.directory)};
}

absl::Status AwaitUnlocked(const AskedMachine& asked, const Fd& directory, MonotonicTime deadline) {
  while (Lives(asked, directory)) {
    if (MonotonicTime::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("machine ", asked.name, " has not ended yet"));
    }
    absl::SleepFor(kLockPoll);
  }
  return absl::OkStatus();
}

absl::Status LostMachine(const AskedMachine& asked) {
  const MonotonicTime deadline = MonotonicTime::Now() + kEndPatience;
  auto found = FindMachine(asked.base, asked.name);
  while (found.ok() && MonotonicTime::Now() < deadline) {
    absl::SleepFor(kLockPoll);
    found = FindMachine(asked.base, asked.name);
  }
  if (!found.ok()) {
    const auto grant = HandedOver(asked.base, asked.name);
    return absl::UnavailableError(grant.has_value() ? HandedOverText(asked.name, *grant)
                                                    : absl::StrCat("machine ", asked.name, " has ended"));
  }
  return absl::UnavailableError(absl::StrCat("the monitor of machine ", asked.name, " (pid ", found->pid,
                                             ") lives, but dropped this connection: it is ending, has no memory for "
                                             "clients, or has too many of them; try again"));
}

}  // namespace ferrite
