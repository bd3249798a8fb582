// The files that say who a side of a move is over TLS, and whom it believes.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_FILES_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite::migration {

// Whether somebody else may see what is in a file.
enum class Secrecy { kPublic, kSecret };

// All of the regular file at `path`, 1 MiB at most. It is opened once, and looked at as it is then: it has to be root's
// or this user's, not written to by others and, if it is secret, not read by them (FAILED_PRECONDITION). Links are
// followed as FindFile() does. Each error is one line that names the file.
absl::StatusOr<std::string> ReadTlsFile(const std::string& path, Secrecy secrecy);

// A key that both sides have from elsewhere, and its name.
struct PreSharedKey {
  std::string identity;
  std::string key;  // bytes
};
// Lines of `IDENTITY:HEX`, as psktool(1) of GnuTLS writes and QEMU reads them: 64 of them at most, of 16 to 64 bytes
// each. Empty lines and those that begin with # are left out. INVALID_ARGUMENT names the line, and nothing of what is
// in it.
absl::StatusOr<std::vector<PreSharedKey>> ParsePreSharedKeys(absl::string_view text);

// Overwrites what was secret.
void Wipe(std::string& secret);
void Wipe(std::vector<PreSharedKey>& keys);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_FILES_H_
