// Where a destination listens: "tcp:HOST:PORT", "tcp:[IPV6]:PORT", the same of "rdma:", "unix:PATH".
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_ADDRESS_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite::migration {

struct Address {
  enum class Kind {
    kTcp,
    kUnix,
    kRdma,  // connections as kTcp's, and queue pairs beside them (rdma/)
  };
  Kind kind = Kind::kTcp;
  std::string host;  // kTcp, kRdma
  std::string port;  // kTcp, kRdma: a number
  std::string path;  // kUnix

  std::string ToString() const;
};

// INVALID_ARGUMENT with the forms that are understood; also for what is not clean (base/clean_text.h).
absl::StatusOr<Address> ParseAddress(absl::string_view text);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_ADDRESS_H_
