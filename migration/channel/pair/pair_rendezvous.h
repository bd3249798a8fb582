// A rendezvous of two sides of a move in one process: for a hand-over, and for tests.
#ifndef FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_RENDEZVOUS_H_
#define FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_RENDEZVOUS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "migration/channel/rendezvous.h"

namespace ferrite::migration {

// When one side is gone the other one finds nobody: UNAVAILABLE.
struct PairRendezvous {
  std::shared_ptr<ChannelOpener> opener;
  std::unique_ptr<ChannelAcceptor> acceptor;
};
// RESOURCE_EXHAUSTED where there is no descriptor for it. `clock`, that of the host of both sides, outlives all of it.
absl::StatusOr<PairRendezvous> MakePair(const Clock& clock);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_RENDEZVOUS_H_
