// Where the destination's channels wait for one another at the end of a round.
#ifndef FERRITE_MIGRATION_PLACING_ROUND_GATE_H_
#define FERRITE_MIGRATION_PLACING_ROUND_GATE_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace ferrite::migration {

// A page that was dirtied is sent again in the next round, maybe on another channel: no channel may go on before all
// have ended the round, or the older copy could land last (R1). Threads: any.
class RoundGate {
 public:
  explicit RoundGate(int channels) : channels_(channels) {}

  // What follows a round.
  enum class Next {
    kRound,  // another one
    kLive,   // pages that are placed under the eyes of the guest
    kEnd,    // nothing
  };

  // A channel has read the end of round `number`: blocks until Open() lets it go on.
  absl::StatusOr<Next> Arrive(uint32_t number);

  // Blocks until all channels have arrived at the end of round `number`.
  absl::Status AwaitAll(uint32_t number);
  // Lets them go on.
  void Open(Next next);
  // Everyone who waits, or will, gets `reason`.
  void Fail(const absl::Status& reason);

 private:
  absl::Mutex mutex_;
  const int channels_;
  uint32_t round_ ABSL_GUARDED_BY(mutex_) = 0;  // the last one that was opened
  int arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  Next next_ ABSL_GUARDED_BY(mutex_) = Next::kRound;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_ROUND_GATE_H_
