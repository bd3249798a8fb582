// Whether mirrored parts (OutgoingPart::mirrored()) are ready: a pure function of measured rates, asked after each
// round over what is left of them.
#ifndef FERRITE_MIGRATION_SENDING_MIRRORED_ROUNDS_H_
#define FERRITE_MIGRATION_SENDING_MIRRORED_ROUNDS_H_

#include <cstdint>
#include <limits>

#include "absl/time/time.h"

namespace ferrite::migration {

// What was measured in a round, of all of them together.
struct MirroredRound {
  uint64_t sent_bytes = 0;  // zero among them
  uint64_t wire_bytes = 0;
  absl::Duration took;           // until the other side had it
  uint64_t remaining_bytes = 0;  // to be sent now
};

// What one decision leaves for the next one.
struct MirroredTrend {
  double rate = 0;                                              // bytes/s, of the faster one of the last two rounds
  double last_rate = 0;                                         // of the last one
  uint64_t least_bytes = std::numeric_limits<uint64_t>::max();  // that were left after a round
  int in_vain = 0;                                              // rounds in a row that did not help
  bool blocking = false;                                        // who writes waits (OutgoingPart::SetBlocking())
};

struct MirroredLimits {
  absl::Duration downtime_limit = absl::Milliseconds(50);
  // What stopping, saving, loading and starting cost beside the last pages.
  absl::Duration fixed_downtime;
};

enum class MirroredStep {
  kReady,   // what is left fits the downtime
  kRound,   // another round
  kBlock,   // another round, with those blocked that write
  kGiveUp,  // they are written faster than they are copied
};

struct MirroredDecision {
  MirroredStep step = MirroredStep::kRound;
  MirroredTrend trend;
  absl::Duration last_bytes;  // how long what is left would take
};

// The step after the round `now`.
//
// Ready is what fits the downtime limit beside what no round can lower, at the rate at which data went over the wire in
// the faster one of the last two rounds: a short round measures latency, not the channel, and what was fast once need
// not be so any more. Zeroes take no time of the wire and what is left may be data: a round of hardly anything else
// measures nothing. A round helps when it leaves at most 7/10 of the least that any round has
// left. After three in a row that do not, what fits the limit by itself is ready, too; else who writes is blocked, and
// after three more nothing can be done. So the rounds have an end, whatever is written.
MirroredDecision DecideMirroredRound(const MirroredRound& now, const MirroredTrend& before,
                                     const MirroredLimits& limits);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRRORED_ROUNDS_H_
