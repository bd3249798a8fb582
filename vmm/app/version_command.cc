// version
#include <fmt/format.h>

#include "base/version.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"

namespace ferrite {

int VersionCommand(const CommandLine& line) {
  if (line.json) {
    PrintJson({{"version", kVersion}}, /*indented=*/true);
  } else {
    fmt::print("ferrite {}\n", kVersion);
  }
  return kExitOk;
}

}  // namespace ferrite
