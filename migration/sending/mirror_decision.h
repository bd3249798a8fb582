// What the rates of a mirror lead to: pure functions of what was measured.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_DECISION_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_DECISION_H_

#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {

// Bytes are of the disk, rates in bytes/s.
struct MirrorMeasures {
  uint64_t remaining_bytes = 0;  // dirty or in flight
  uint64_t copied_bytes = 0;     // so far
  double possible_rate = 0;      // with nothing held back; 0: not known
  uint64_t max_bandwidth = 0;    // of what is copied in the background; 0: no limit
  double dirty_rate = 0;
  bool first_pass = false;  // what was never copied becomes dirty by no write
  bool failing = false;     // some of what remains could not be copied the last time
};

// How long it takes to copy what remains when nothing holds it back. Infinite when the rate is not known, and for what
// could not be copied: an error that is ignored comes again, as far as anybody knows.
absl::Duration TimeToDrain(const MirrorMeasures& measures);

// What remains fits the downtime limit, at a rate at which at least as much was copied before.
bool FitsDowntime(const MirrorMeasures& measures, absl::Duration downtime_limit);

// Copying what remains in the background is not expected to help: more than 7/10 as much becomes dirty meanwhile (as a
// round of memory's, convergence.h), and what remains does not fit the downtime limit. Not asked during the first pass,
// which has to be made anyway and costs the guest nothing, nor while some of it fails, which no blocking helps. Asked
// once a second; one second may be a burst, so writes are blocked after two in a row.
bool IsFutile(const MirrorMeasures& measures, absl::Duration downtime_limit);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_DECISION_H_
