// The first phases of an arrival: who comes, with which machine, and over which channels.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_HANDSHAKE_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_HANDSHAKE_H_

#include "absl/status/status.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// Greets whoever comes until one brings a machine that is accepted, the source of this move: HELLO, WELCOME, MACHINE,
// ACCEPT. Others are dropped and logged, and those whose machine is refused hear why.
absl::Status AwaitMachine(Arrival& arrival, ChannelAcceptor& acceptor);
// The page and urgent channels of the source, which hears OPENED when all are here. Whoever does not prove that it
// belongs to the move is dropped.
absl::Status AcceptChannels(Arrival& arrival, ChannelAcceptor& acceptor);
// The memory is empty and the balloon rests from here on (R8): ADVISE, READY.
absl::Status Prepare(Arrival& arrival);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_HANDSHAKE_H_
