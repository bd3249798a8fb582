// What the rounds of pre-copy lead to: a pure function of measured rates, asked after each round.
#ifndef FERRITE_MIGRATION_SENDING_CONVERGENCE_H_
#define FERRITE_MIGRATION_SENDING_CONVERGENCE_H_

#include <cstdint>

#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {

// What was measured in a round. Bytes are of memory, but for what went over the wire; what is said to be of mirrored
// parts (OutgoingPart::mirrored()) is in none of the others.
struct RoundFigures {
  RoundPages pages = RoundPages::kCalm;  // what it was to send
  uint64_t sent_bytes = 0;               // pages that are zero among them
  uint64_t wire_bytes = 0;
  uint64_t all_sent_bytes = 0;  // in this round and all before it
  absl::Duration took;
  uint64_t dirtied_bytes = 0;    // written during the round
  uint64_t again_bytes = 0;      // of these, what had been written in one of the two rounds before, too
  uint64_t remaining_bytes = 0;  // to be sent now
  // Of these, what RoundPages::kUnsent and kCalm would send; counted as far as FirstRound() goes.
  uint64_t unsent_bytes = 0;
  uint64_t calm_bytes = 0;
  // Of mirrored parts: what went before memory in the round, what was written to them during it, and what is to be sent
  // now.
  uint64_t mirrored_sent_bytes = 0;
  uint64_t mirrored_wire_bytes = 0;
  uint64_t mirrored_dirtied_bytes = 0;
  uint64_t mirrored_bytes = 0;
  int throttle_percent = 0;  // what the vCPUs were held back in it
  bool futile = false;       // Decision::futile of this round
};

struct ConvergenceLimits {
  MoveMode mode = MoveMode::kAuto;
  absl::Duration downtime_limit = absl::Milliseconds(50);
  // What stopping, saving, loading and starting cost beside the last pages; the load is the destination's own report.
  absl::Duration fixed_downtime;
  // The other end can serve faults.
  bool postcopy_possible = true;
  // All that has to be sent once.
  uint64_t memory_bytes = 0;
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
  // The next round is not expected to help, or this one did not.
  bool futile = false;
  // Of the round that follows: what it sends, and where it ends if there is more.
  RoundPages pages = RoundPages::kCalm;
  uint64_t most_bytes = 0;
  // Memory would be ready for the switchover, were it not for what is left of mirrored parts.
  bool for_mirrored = false;
};

// The round that comes first: a part of memory, so that little of it was in vain whatever the guest does.
Decision FirstRound(const ConvergenceLimits& limits);

// The step after the round `now`; `before` is the round before it, or null after the first.
//
// At first memory goes in parts, and what was just written waits: it would be sent in vain. So does, as long as there
// is anything else, what lies beside it: a guest whose first write to each page is seen, and costs it time, is found to
// have written only a part of what it writes. A part is twice as large as the one before it when the guest wrote where
// it had written before. From then on what is dirty goes again, but for what is written all the time
// (RoundPages::kQuiet): where the last rounds were no longer than the next one it would be dirty after that, too, and
// is left for the switchover. In pre-copy only if it fits the limit: else the move would not end.
//
// A round helps when at most 7/10 of what is left now is expected to be left after it; one of what was never sent, when
// at most 4/10 as much is written at new places meanwhile. Where the next one would not help because of what is written
// all the time, auto turns to post-copy; where it would not, or this one did not, because of anything else, when 1.15
// times of memory could be sent in all, or, once nothing calm is left, the one before it did not help either. Pre-copy
// sends all memory once, and then throttles: 20 % first, then 10 % more each time, 99 % at most. Then nothing more can
// be done, and what no round can lower (the fixed part) does not count any more.
//
// The guest is stopped when the rest, of all parts, fits the downtime limit, at the rate at which at least as much was
// sent before. What is decided otherwise is about memory; whether mirrored parts are kept up with, mirrored_rounds.h
// says.
Decision DecideNext(const RoundFigures& now, const RoundFigures* before, const ConvergenceLimits& limits);

// Bytes/s over the wire in a round, at least 1.
double RateOf(const RoundFigures& round);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CONVERGENCE_H_
