#include "vmm/app/inheritance.h"

#include <linux/close_range.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace ferrite {
namespace {

constexpr const char* kKept[] = {"XDG_RUNTIME_DIR", "TZ",
                                 // Those of the C library's resolver (resolv.conf(5), hostname(7)).
                                 "LOCALDOMAIN", "RES_OPTIONS", "HOSTALIASES",
                                 // What the runtime of a build that counts coverage reads at the end.
                                 "GCOV_PREFIX", "GCOV_PREFIX_STRIP"};

}  // namespace

void CloseInheritedDescriptors(int keep) {
  constexpr unsigned kFirst = STDERR_FILENO + 1;
  if (keep < static_cast<int>(kFirst)) {
    (void)close_range(kFirst, ~0U, 0);
    return;
  }
  const auto kept = static_cast<unsigned>(keep);
  if (kept > kFirst) {
    (void)close_range(kFirst, kept - 1, 0);
  }
  (void)close_range(kept + 1, ~0U, 0);
}

void CleanEnvironment() {
  std::vector<std::pair<const char*, std::string>> kept;
  for (const char* name : kKept) {
    if (const char* value = getenv(name); value != nullptr) {
      kept.emplace_back(name, value);
    }
  }
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    // explicit_bzero: nobody reads it any more, as far as the compiler knows.
    explicit_bzero(*variable, strlen(*variable));
  }
  (void)clearenv();
  for (const auto& [name, value] : kept) {
    (void)setenv(name, value.c_str(), /*overwrite=*/1);
  }
}

}  // namespace ferrite
