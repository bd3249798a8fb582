// The base of the run directories (run_dir.h): where it is, and opening it.
#ifndef FERRITE_VMM_CONTROL_RUN_BASE_H_
#define FERRITE_VMM_CONTROL_RUN_BASE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/directory.h"
#include "base/fd.h"

namespace ferrite {

// The directory that holds the machines' directories: `option` (--run-dir) when it is not empty, else /run/ferrite for
// root, else $XDG_RUNTIME_DIR/ferrite. An error when there is none of them.
absl::StatusOr<std::string> RunBase(absl::string_view option);

// Whether the base directory is there and may be looked at: NOT_FOUND, or FAILED_PRECONDITION when it is something else
// or is refused, in words.
absl::Status CheckRunBase(const std::string& base);

// FAILED_PRECONDITION: `why`, and what to do.
absl::Status RefusedBase(absl::string_view why);

// Errors as of CheckRunBase(); `made` as WalkOptions says.
absl::StatusOr<Fd> OpenBase(const std::string& base, const WalkOptions& options);
// For whoever changes nothing in it.
absl::StatusOr<Fd> OpenBaseToLook(const std::string& base);

// What is in `base`, in no order.
absl::StatusOr<std::vector<std::string>> NamesIn(const Fd& base);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_RUN_BASE_H_
