// What a source keeps of a machine that it handed over (DESIGN §5): who may run it from here on.
#ifndef FERRITE_VMM_MOVE_GRANT_RECORD_H_
#define FERRITE_VMM_MOVE_GRANT_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "migration/machine_port.h"

namespace ferrite {

// DIRECTORY/grant: three lines, "move HEX", "epoch N", "to ADDRESS". When Write returned OK the record is on the disk,
// whole; when not (a full disk), there is none.
absl::Status WriteGrantRecord(const std::string& directory, const migration::MoveId& id, uint64_t epoch,
                              absl::string_view where);
// None is OK.
absl::Status RemoveGrantRecord(const std::string& directory);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_GRANT_RECORD_H_
