// An arrival whose connection was lost when the source may have granted the guest, or while it copied it.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_RECOVERY_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_RECOVERY_H_

#include "absl/status/status.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// Whether the source may come back for this move, after `failure`.
bool MayComeBack(Arrival& arrival, const absl::Status& failure);

// Waits until the source is back, and goes on where the connection was lost (R4). An error ends the wait: nobody is
// waited for any more, or the source took the guest back (Arrival::revoked).
absl::Status Recover(Arrival& arrival, ChannelAcceptor& acceptor);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_RECOVERY_H_
