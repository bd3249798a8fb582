// One machine's directory in the base (run_dir.h): its name, its files, whose it is.
#ifndef FERRITE_VMM_CONTROL_MACHINE_DIRECTORY_H_
#define FERRITE_VMM_CONTROL_MACHINE_DIRECTORY_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"

namespace ferrite {

inline constexpr char kSocketFile[] = "control.sock";
inline constexpr char kLogFile[] = "ferrite.log";
inline constexpr char kGrantFile[] = "grant";
inline constexpr char kUnfinishedGrantFile[] = "grant.new";  // never said to anybody

std::string JoinPath(absl::string_view directory, absl::string_view file);

// 1 to 64 characters of [A-Za-z0-9._-], the first neither '.' nor '-'.
absl::Status CheckMachineName(absl::string_view name);

// The directory itself, never what a symbolic link of its name points to. Not valid, with errno, when it cannot be
// opened.
Fd OpenMachineDirectory(const Fd& base, const std::string& name);

// Whether it is `user`'s, and nobody else may put anything into it.
bool IsOf(uid_t user, const Fd& directory);
bool IsOwn(const Fd& directory);

// A machine's directory, which is ours. In a base that others may write to (/tmp), somebody else's directory or a
// symbolic link could wait under the name.
absl::StatusOr<Fd> OpenOwnDirectory(const Fd& base, const std::string& name);

// Removes our files of a machine and, when nothing else is in it, its directory, if the name is still that directory's.
// The pid file goes last: as long as it is there, whoever finds the directory knows what it is.
void RemoveMachineDirectory(const Fd& base, const std::string& name, const Fd& directory);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MACHINE_DIRECTORY_H_
