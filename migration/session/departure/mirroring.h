// Parts that are mirrored (OutgoingPart::mirrored()): they are copied until they are *ready* before memory's rounds
// begin, and kept up with from then on.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_MIRRORING_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_MIRRORING_H_

#include "absl/status/status.h"
#include "migration/sending/convergence.h"
#include "migration/sending/mirrored_rounds.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Copies all of them until what is left fits the downtime limit (mirrored_rounds.h), if that has not been so. Their
// writes are noted.
//
// FAILED_PRECONDITION when they are written faster than they are copied, DEADLINE_EXCEEDED when that took longer than
// the rounds may (and post-copy does not follow): with the name, and the rates.
absl::Status Mirror(Departure& departure);

// The same of what was written to them since, for a switchover that leaves memory behind.
absl::Status CatchUp(Departure& departure);

// The error of the second kind.
absl::Status NotCopiedInTime(Departure& departure);

// Those who write to a part that is blocking are answered: all is at the destination that was noted before the round
// that has just arrived there. Not if it left something of these parts.
void TellDelivered(Departure& departure);

// Memory's rounds go on for what is left of mirrored parts alone, until it fits or that has no end. Threads: the
// departure's.
class KeepingUp {
 public:
  explicit KeepingUp(Departure& departure) : departure_(departure) {}
  // Changes `decision`, which was made of `now`; also where the guest would be held back for what they take of the
  // link. Errors as Mirror().
  absl::Status Judge(const RoundFigures& now, const ConvergenceLimits& limits, Decision& decision);

 private:
  Departure& departure_;
  MirroredTrend trend_;  // of the rounds in a row that were for mirrored parts
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_MIRRORING_H_
