#include "migration/protocol/version.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferrite::migration {

absl::StatusOr<uint16_t> ChooseVersion(VersionRange ours, VersionRange theirs) {
  const uint16_t newest = std::min(ours.newest, theirs.newest);
  if (newest < ours.lowest || newest < theirs.lowest) {
    return absl::FailedPreconditionError(absl::StrCat("no common version of the move protocol: this side speaks ",
                                                      ours.lowest, " to ", ours.newest, ", the other ", theirs.lowest,
                                                      " to ", theirs.newest, "; update the older one"));
  }
  return newest;
}

}  // namespace ferrite::migration
