// What made a guest stand still for longer than it was to.
#ifndef FERRITE_MIGRATION_API_DOWNTIME_H_
#define FERRITE_MIGRATION_API_DOWNTIME_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "migration/api/move_report.h"

namespace ferrite::migration {

// The longest part of the downtime, in words for people ("last pages"), where the guest stood still for longer than the
// limit; "waiting for a processor" where that was more than all the rest.
std::optional<absl::string_view> WhatTookTooLong(const MoveReport& report);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_DOWNTIME_H_
