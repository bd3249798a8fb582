// Whether another round of pre-copy helps: pure functions of measured rates.
#ifndef FERRITE_MIGRATION_SENDING_CONVERGENCE_H_
#define FERRITE_MIGRATION_SENDING_CONVERGENCE_H_

#include <cstdint>

#include "absl/time/time.h"
#include "migration/api/move_options.h"

namespace ferrite::migration {

// What was measured in a round.
struct RoundFigures {
  uint32_t number = 0;  // 1 for the first
  uint64_t bytes_sent = 0;
  absl::Duration took;
  uint64_t remaining_bytes = 0;  // dirty now: written during the round
  int throttle_percent = 0;      // what the vCPUs were held back in it
};

struct ConvergenceLimits {
  MoveMode mode = MoveMode::kAuto;
  absl::Duration downtime_limit = absl::Milliseconds(50);
  // What stopping, saving, loading and starting cost beside the last pages; the load is the destination's own report.
  absl::Duration fixed_downtime;
  // The other end can serve faults.
  bool postcopy_possible = true;
};

enum class NextStep {
  kRound,       // send what is dirty, guest running
  kSwitchover,  // stop the guest and send the rest
  kPostcopy,    // switch over and send the rest while it runs there
  kThrottle,    // another round, with the vCPUs held back by Decision::throttle_percent
};

struct Decision {
  NextStep step = NextStep::kRound;
  int throttle_percent = 0;
  absl::Duration expected_downtime;
};

// The step after the round `now`; `before` is the round before it, or null after the first.
//
// The guest is stopped as soon as the rest fits the downtime limit. Rounds go on while each leaves at most 7/10 of what
// the one before left. When they do not any more, auto turns to post-copy, and pre-copy throttles: 20 % first, then 10
// % more each round that does not help, 99 % at most. Then nothing more can be done, and what no round can lower (the
// fixed part) does not count any more: the move ends although the limit cannot be kept.
Decision DecideNext(const RoundFigures& now, const RoundFigures* before, const ConvergenceLimits& limits);

// bytes/s of a round, at least 1.
double RateOf(const RoundFigures& round);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CONVERGENCE_H_
