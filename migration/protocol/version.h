// Which version and features a move uses: decided by pure functions.
#ifndef FERRITE_MIGRATION_PROTOCOL_VERSION_H_
#define FERRITE_MIGRATION_PROTOCOL_VERSION_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace ferrite::migration {

struct VersionRange {
  uint16_t lowest = 0;
  uint16_t newest = 0;
  bool operator==(const VersionRange&) const = default;
};

inline constexpr VersionRange kOurVersions{.lowest = 2, .newest = 2};

enum Features : uint64_t {
  kFeaturePostcopy = 1 << 0,
  kFeaturePoison = 1 << 1,
  kFeatureRecovery = 1 << 2,
  kFeatureMirror = 1 << 3,  // parts that are mirrored are offered, and may be declined
  kFeatureResume = 1 << 4,  // the copy phases go on after a lost connection
  kFeatureFewer = 1 << 5,   // behind GRANT a page channel that breaks ends alone
};
inline constexpr uint64_t kOurFeatures =
    kFeaturePostcopy | kFeaturePoison | kFeatureRecovery | kFeatureMirror | kFeatureResume | kFeatureFewer;

// The newest version that both speak; FAILED_PRECONDITION, with both ranges, when there is none.
absl::StatusOr<uint16_t> ChooseVersion(VersionRange ours, VersionRange theirs);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_VERSION_H_
