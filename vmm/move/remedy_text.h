// The command's words for what can be done about an error of a move.
#ifndef FERRITE_VMM_MOVE_REMEDY_TEXT_H_
#define FERRITE_VMM_MOVE_REMEDY_TEXT_H_

#include "absl/status/status.h"

namespace ferrite {

// `error`, and what to do about it where the engine has a code for that (migration/api/remedy.h).
absl::Status WithRemedyText(const absl::Status& error);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_REMEDY_TEXT_H_
