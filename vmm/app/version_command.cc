#include "vmm/app/version_command.h"

#include <fmt/format.h>

#include "base/version.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"

namespace ferrite {
namespace {

class VersionCommand final : public CommandWith<VersionCommandOptions> {
 public:
  VersionCommand() : CommandWith({"version", "Print the version", "ferrite version"}) {}

  void AddTo(CLI::App& app) override {
    AddRunDir(app, options_.run_dir);
    AddJson(app, options_.json);
  }

  absl::Status Finish() override { return absl::OkStatus(); }

  int Run(int64_t /*started_ns*/) override {
    if (options_.json) {
      PrintJson({{"version", kVersion}}, /*indented=*/true);
    } else {
      fmt::print("ferrite {}\n", kVersion);
    }
    return kExitOk;
  }
  bool needs_procfs() const override { return false; }
};

}  // namespace

std::unique_ptr<Command> MakeVersionCommand() { return std::make_unique<VersionCommand>(); }

}  // namespace ferrite
