// The first phases of a departure, setup and advise: the two sides agree on the machine and on how it moves.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_HANDSHAKE_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_HANDSHAKE_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Connects, and describes the machine: HELLO, WELCOME, MACHINE, ACCEPT. Then the page channels are open.
absl::Status Setup(Departure& departure);
// The balloon rests from here on (R8), and so it does at the destination: ADVISE, READY.
absl::Status Advise(Departure& departure);

// The parts that recovery does again.
absl::Status OpenControl(Departure& departure, ChannelOpener& opener, absl::Duration silence);
absl::Status OpenPages(Departure& departure);

// Each is served by a thread at either end.
inline constexpr uint16_t kUrgentChannels = 2;

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_HANDSHAKE_H_
