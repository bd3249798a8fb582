// What a destination is asked for.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_OPTIONS_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_OPTIONS_H_

#include "absl/time/time.h"

namespace ferrite::migration {

struct ArrivalOptions {
  absl::Duration silence = absl::Seconds(10);  // after which the source counts as gone
  // How long a connection has to say who it is, a source to say what machine it brings, and then for each step in
  // which this side waits for it. Until memory comes the source may also be silent for that long.
  absl::Duration patience = absl::Seconds(60);
  // How long to wait for a source whose connection was lost when nothing was missing but its word: GRANT before the
  // guest runs here (it then never will), or that it heard that all is here (then that is so).
  absl::Duration hold_for = absl::Seconds(30);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_OPTIONS_H_
