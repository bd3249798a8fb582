// The files that say who a side of a move is over TLS, and whom it believes.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_FILES_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_FILES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "migration/api/tls_options.h"

namespace ferrite::migration {

// Whether somebody else may see what is in a file.
enum class Secrecy { kPublic, kSecret };

// Which file is there, and since when it has what is in it: another mark is another file, or another content. All zero
// for none.
struct TlsFileMark {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t bytes = 0;
  int64_t written = 0;  // ns, as is the next
  int64_t changed = 0;

  bool operator==(const TlsFileMark&) const = default;
};

// The directory that they are in, as it was found: whatever its path leads to later, they are this one's. Threads: any.
class TlsFiles {
 public:
  // Of TlsOptions::directory, or the one that its psk_file is in. Errors as FindFile().
  static absl::StatusOr<TlsFiles> Find(const TlsOptions& options);

  // All of a regular file, 1 MiB at most. It is opened once, and looked at as it is then: it has to be root's or this
  // user's, not written to by others and, if it is secret, not read by them (FAILED_PRECONDITION). Links are followed
  // as FindFile() does. Each error is one line that names the file.
  absl::StatusOr<std::string> Read(const std::string& name, Secrecy secrecy) const;
  // Nothing of it is opened. An error when that cannot be told now.
  absl::StatusOr<TlsFileMark> Mark(const std::string& name) const;
  // For messages, as it was given.
  std::string PathOf(const std::string& name) const { return prefix_ + name; }

 private:
  TlsFiles(Fd directory, std::string prefix) : directory_(std::move(directory)), prefix_(std::move(prefix)) {}

  Fd directory_;
  std::string prefix_;
};

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
