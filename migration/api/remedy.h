// What can be done about an error of a move, as a code: the words for it are those of whoever shows the error.
#ifndef FERRITE_MIGRATION_API_REMEDY_H_
#define FERRITE_MIGRATION_API_REMEDY_H_

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace ferrite::migration {

enum class Remedy : char {
  kNone = 0,
  kForce,            // Source::TakeBack() with `force`
  kLookAtTheirHost,  // what the destination's host lacks is to be seen there
  kNameDiskCopy,     // the destination's user names where a disk is copied to
};

inline constexpr absl::string_view kRemedyPayload = "ferrite.migration.Remedy";

// `error` with `remedy`, in a payload of its own.
inline absl::Status WithRemedy(absl::Status error, Remedy remedy) {
  const char code = static_cast<char>(remedy);
  error.SetPayload(kRemedyPayload, absl::Cord(absl::string_view(&code, 1)));
  return error;
}

inline Remedy RemedyOf(const absl::Status& error) {
  const auto payload = error.GetPayload(kRemedyPayload);
  return payload.has_value() && payload->size() == 1 ? static_cast<Remedy>((*payload)[0]) : Remedy::kNone;
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_REMEDY_H_
