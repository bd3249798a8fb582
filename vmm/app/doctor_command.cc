// doctor
#include <fmt/format.h>

#include "absl/strings/ascii.h"
#include "vmm/app/commands.h"
#include "vmm/app/doctor.h"

namespace ferrite {

int DoctorCommand(const CommandLine& line) {
  const DoctorReport report = RunDoctor();
  const std::string text = line.json ? RenderDoctorJson(report) : RenderDoctorText(report);
  fmt::print("{}\n", std::string(absl::StripTrailingAsciiWhitespace(text)));
  return kExitOk;
}

}  // namespace ferrite
