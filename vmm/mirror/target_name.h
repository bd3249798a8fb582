// What people write for the target of a mirror.
#ifndef FERRITE_VMM_MIRROR_TARGET_NAME_H_
#define FERRITE_VMM_MIRROR_TARGET_NAME_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

struct TargetName {
  enum class Kind {
    kPath,     // of a file or a block device
    kNbdUnix,  // "nbd:unix:PATH[:EXPORT]"; EXPORT may be "exportname=EXPORT", as QEMU writes it
    kNbdUri,   // as nbd_connect_uri(3): nbd, nbds, nbd+unix, nbds+unix, nbd+vsock, nbds+vsock
  };

  Kind kind = Kind::kPath;
  std::string text;         // all of it, as it was written
  std::string socket;       // kNbdUnix
  std::string export_name;  // kNbdUnix; "" is the server's default
};

// INVALID_ARGUMENT, in one line: "", what is not one clean line, "nbd:" and the like with anything else behind it, TLS
// without a file to prove who the server is.
absl::StatusOr<TargetName> ParseTargetName(absl::string_view text);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_TARGET_NAME_H_
