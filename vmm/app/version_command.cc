#include "vmm/app/version_command.h"

#include <fmt/format.h>

#include "base/version.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"

namespace ferrite {

VersionCommand::VersionCommand() : Command({"version", "Print the version", "ferrite version"}) {}

void VersionCommand::AddTo(CLI::App& app) {
  AddRunDir(app, options_.run_dir);
  AddJson(app, options_.json);
}

absl::Status VersionCommand::Finish() { return absl::OkStatus(); }

int VersionCommand::Run(int64_t /*started_ns*/) {
  if (options_.json) {
    PrintJson({{"version", kVersion}}, /*indented=*/true);
  } else {
    fmt::print("ferrite {}\n", kVersion);
  }
  return kExitOk;
}

}  // namespace ferrite
