#include "vmm/control/handed_over.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"
#include "vmm/control/base_lock.h"
#include "vmm/control/machine_directory.h"
#include "vmm/control/pid_file.h"
#include "vmm/control/run_base.h"

namespace ferrite {

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
  if (!pid_file.ok() || !TryLockPidFile(*pid_file) || !GrantIn(*directory).has_value()) {
    return absl::NotFoundError(absl::StrCat("no machine named ", name, " was handed over by a monitor that is gone"));
  }
  RemoveMachineDirectory(all, name, *directory);
  return absl::OkStatus();
}

std::optional<GrantRecord> GrantIn(const Fd& directory) {
  auto record = ReadGrantRecord(directory);
  if (absl::IsNotFound(record.status())) {
    return std::nullopt;
  }
  return record.ok() ? *std::move(record) : GrantRecord{.where = "an address that cannot be read any more"};
}

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
  return pid_file.ok() && !IsPidFileLocked(*pid_file) ? GrantIn(*directory) : std::nullopt;
}

}  // namespace ferrite
