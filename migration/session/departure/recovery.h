// A departure behind GRANT whose connection was lost.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_RECOVERY_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_RECOVERY_H_

#include <memory>

#include "absl/status/status.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Looks for the destination of a move that is postcopy-paused, compares with it, and sends what is missing there (R4);
// until it worked, there is nothing to recover, or MoveOptions::recover_for is up in which nothing came of it. `lost`:
// why the connection was lost, or OK when somebody asked for this.
absl::Status KeepTrying(Departure& departure, const std::shared_ptr<ChannelOpener>& opener, const absl::Status& lost);

// As Source::TakeBack().
absl::Status TakeBack(Departure& departure, bool force);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_RECOVERY_H_
