#include "vmm/app/doctor_command.h"

#include <fmt/format.h>

#include "absl/strings/ascii.h"
#include "vmm/app/commands.h"
#include "vmm/app/doctor.h"

namespace ferrite {

DoctorCommand::DoctorCommand()
    : Command({"doctor", "What this host can do, and what to do about what it cannot", "ferrite doctor"}) {}

void DoctorCommand::AddTo(CLI::App& app) {
  AddRunDir(app, options_.run_dir);
  AddJson(app, options_.json);
}

absl::Status DoctorCommand::Finish() { return absl::OkStatus(); }

int DoctorCommand::Run(int64_t /*started_ns*/) {
  const DoctorReport report = RunDoctor();
  const std::string text = options_.json ? RenderDoctorJson(report) : RenderDoctorText(report);
  fmt::print("{}\n", std::string(absl::StripTrailingAsciiWhitespace(text)));
  return kExitOk;
}

}  // namespace ferrite
