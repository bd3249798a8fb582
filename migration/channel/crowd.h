// Who has to go when too many are here: nobody is kept out by others who come from elsewhere.
#ifndef FERRITE_MIGRATION_CHANNEL_CROWD_H_
#define FERRITE_MIGRATION_CHANNEL_CROWD_H_

#include <cstddef>
#include <span>

#include "absl/strings/string_view.h"

namespace ferrite::migration {

// One that is here.
struct Present {
  absl::string_view origin;
  bool silent = false;  // it has said nothing of use yet
};

// The index in `here` (not empty; the one that came first is first) of who goes for one that comes from `origin`: of
// the origin that has most, the newcomer counted, the first that is silent, or the first.
size_t WhoMakesRoom(std::span<const Present> here, absl::string_view origin);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_CROWD_H_
