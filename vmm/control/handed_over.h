// What a killed monitor left of a machine that it had handed over (run_dir.h).
#ifndef FERRITE_VMM_CONTROL_HANDED_OVER_H_
#define FERRITE_VMM_CONTROL_HANDED_OVER_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "vmm/control/grant_record.h"

namespace ferrite {

// To whom a monitor that is gone had handed that machine over; nothing when it did not, or lives.
std::optional<GrantRecord> HandedOver(const std::string& base, absl::string_view name);
// What that means, and what to do next.
std::string HandedOverText(absl::string_view name, const GrantRecord& grant);

// Removes what a killed monitor left of a machine that it had handed over. NOT_FOUND when there is no such thing: no
// such machine at all, or one that lives.
absl::Status ForgetHandedOver(const std::string& base, absl::string_view name);

// The record of a machine whose monitor does not live. One that cannot be read counts, too.
std::optional<GrantRecord> GrantIn(const Fd& directory);
// Whether the guest of that machine was not handed over.
absl::Status CheckNoGrant(const Fd& directory, absl::string_view name);
// HandedOver() of a base that is open.
std::optional<GrantRecord> HandedOverIn(const Fd& base, const std::string& name);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_HANDED_OVER_H_
