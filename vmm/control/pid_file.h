// The pid file of a machine's directory (run_dir.h): the lock on it, not the number, proves that its monitor lives.
#ifndef FERRITE_VMM_CONTROL_PID_FILE_H_
#define FERRITE_VMM_CONTROL_PID_FILE_H_

#include <sys/types.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"

namespace ferrite {

inline constexpr char kPidFile[] = "ferrite.pid";

// Whether somebody holds the lock on `pid_file`; asking does not take it, so that asking never disturbs a start.
bool IsPidFileLocked(const Fd& pid_file);
bool TryLockPidFile(const Fd& pid_file);
// 0 when there is none in it.
pid_t ReadPid(const Fd& pid_file);
// That of the machine `name` in its `directory`, locked, and made if there is none. ALREADY_EXISTS when its monitor
// lives.
absl::StatusOr<Fd> TakePidFile(const Fd& directory, absl::string_view name);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_PID_FILE_H_
