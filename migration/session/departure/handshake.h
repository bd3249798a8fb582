// The first phases of a departure, setup and advise: the two sides agree on the machine and on how it moves.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_HANDSHAKE_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_HANDSHAKE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "migration/channel/rendezvous.h"
#include "migration/protocol/preamble.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Connects, and describes the machine: HELLO, WELCOME, MACHINE, ACCEPT. Then the page channels are open: OPENED.
absl::Status Setup(Departure& departure);
// The balloon rests from here on (R8), and so it does at the destination: ADVISE, READY.
absl::Status Advise(Departure& departure);

// The parts that recovery does again. The control channel takes no long messages before the destination has proved that
// it is the move's.
absl::Status OpenControl(Departure& departure, ChannelOpener& opener, ChannelRole role, uint64_t epoch,
                         absl::Duration silence, absl::Duration limit);
// RECOVER, STANDING: whether GRANT has arrived there. Nobody but the destination of the move is believed. `epoch`: of
// the last GRANT, 0 while the guest is copied.
absl::StatusOr<bool> AskWhetherGranted(Departure& departure, ChannelOpener& opener, uint64_t epoch,
                                       absl::Duration limit);
// `epoch`: of the last GRANT, 0 before it. `limit`: for each of the destination's steps. Nothing is sent before it has
// proved that all channels are at the place where the control channel is.
absl::Status OpenPages(Departure& departure, uint64_t epoch, absl::Duration limit);

// Each is served by a thread at either end.
inline constexpr uint16_t kUrgentChannels = 2;

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_HANDSHAKE_H_
