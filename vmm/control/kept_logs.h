// Logs of machines that failed with nobody there to be told (run_dir.h).
#ifndef FERRITE_VMM_CONTROL_KEPT_LOGS_H_
#define FERRITE_VMM_CONTROL_KEPT_LOGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/fd.h"

namespace ferrite {

// What the log of a machine is kept as in the base.
std::string KeptLogName(absl::string_view name);
// And where something of somebody else's has that name.
std::string KeptLogName(absl::string_view name, uint64_t number);

// This user's logs of machines of that name that RunDir::KeepLog() left.
std::vector<std::string> KeptLogsIn(const Fd& base, absl::string_view name);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_KEPT_LOGS_H_
