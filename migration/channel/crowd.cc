#include "migration/channel/crowd.h"

#include <algorithm>

namespace ferrite::migration {

size_t WhoMakesRoom(std::span<const Present> here, absl::string_view origin) {
  const auto count = [&](absl::string_view of) {
    return std::count_if(here.begin(), here.end(), [&](const Present& one) { return one.origin == of; }) +
           (of == origin ? 1 : 0);
  };
  size_t first = 0;
  for (size_t i = 1; i < here.size(); ++i) {
    if (count(here[i].origin) > count(here[first].origin)) {
      first = i;
    }
  }
  for (size_t i = first; i < here.size(); ++i) {
    if (here[i].origin == here[first].origin && here[i].silent) {
      return i;
    }
  }
  return first;
}

}  // namespace ferrite::migration
