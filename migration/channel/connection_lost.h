// Whether an error is one of a connection.
#ifndef FERRITE_MIGRATION_CHANNEL_CONNECTION_LOST_H_
#define FERRITE_MIGRATION_CHANNEL_CONNECTION_LOST_H_

#include "absl/status/status.h"

namespace ferrite::migration {

// `status` says that the connection broke (UNAVAILABLE), or that the other side closed it (OUT_OF_RANGE): the same move
// may go on over another one. Nothing but channels has such errors (ErrnoStatus()).
inline bool IsConnectionLost(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsOutOfRange(status);
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_CONNECTION_LOST_H_
