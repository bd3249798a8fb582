// Errors of placing.
#ifndef FERRITE_MIGRATION_PLACING_OWN_MEMORY_H_
#define FERRITE_MIGRATION_PLACING_OWN_MEMORY_H_

#include "absl/status/status.h"

namespace ferrite::migration {

// Placing fails for what this side's memory lacks, whatever errno says of it.
inline absl::Status OfOwnMemory(const absl::Status& status) {
  return status.ok() ? status : absl::ResourceExhaustedError(status.message());
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_OWN_MEMORY_H_
