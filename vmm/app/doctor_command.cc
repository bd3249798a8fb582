#include "vmm/app/doctor_command.h"

#include <fmt/format.h>

#include "absl/strings/ascii.h"
#include "vmm/app/commands.h"
#include "vmm/app/doctor.h"

namespace ferrite {
namespace {

class DoctorCommand final : public CommandWith<DoctorCommandOptions> {
 public:
  DoctorCommand()
      : CommandWith({"doctor", "What this host can do, and what to do about what it cannot", "ferrite doctor"}) {}

  void AddTo(CLI::App& app) override {
    AddRunDir(app, options_.run_dir);
    AddJson(app, options_.json);
  }

  absl::Status Finish() override { return absl::OkStatus(); }

  int Run(int64_t /*started_ns*/) override {
    const DoctorReport report = RunDoctor();
    const std::string text = options_.json ? RenderDoctorJson(report) : RenderDoctorText(report);
    fmt::print("{}\n", std::string(absl::StripTrailingAsciiWhitespace(text)));
    return kExitOk;
  }
  bool needs_procfs() const override { return false; }
};

}  // namespace

std::unique_ptr<Command> MakeDoctorCommand() { return std::make_unique<DoctorCommand>(); }

}  // namespace ferrite
