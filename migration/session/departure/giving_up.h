// How a departure that failed or was cancelled ends.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_GIVING_UP_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_GIVING_UP_H_

#include "absl/status/status.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Undoes what was done, so that the guest is as it was before (R3): failed, or cancelled. Behind GRANT it only stands
// still (R2, R4): postcopy-paused. Returns what there is to say of it: `reason`, in the words of who knows best.
absl::Status GiveUp(Departure& departure, const absl::Status& reason);

// Why tries to make a lost connection anew failed: that can be what a person has to mend, as a certificate that has
// expired meanwhile. The last reason, and the other one before it: a destination that does not wait any more may be
// the last.
class FailedTries {
 public:
  void Note(const absl::Status& why);
  // `lost`, as the connection was lost and GiveUp() may have said, and then those.
  absl::Status After(const absl::Status& lost) const;

 private:
  absl::Status before_;
  absl::Status last_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_GIVING_UP_H_
