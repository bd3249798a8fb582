// balloon
#include <fmt/format.h>

#include "base/byte_size.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"

namespace ferrite {
namespace {

void PrintFigures(const BalloonFigures& figures) {
  fmt::print("target {}\nactual {}\n", FormatByteSize(figures.target_bytes), FormatByteSize(figures.actual_bytes));
  for (const auto& [name, value] : figures.statistics) {
    fmt::print("{} {}\n", name, value);
  }
}

}  // namespace

int BalloonCommand(const CommandLine& line) {
  return WithMachine(line, [&](ControlClient& client) -> int {
    const auto figures = line.balloon_bytes.has_value()
                             ? client.SetBalloon(*line.balloon_bytes, line.wait ? line.timeout : absl::ZeroDuration())
                             : client.Balloon();
    if (!figures.ok()) {
      return Fail(figures.status());
    }
    if (line.json) {
      PrintJson(BalloonJson(*figures), /*indented=*/true);
    } else {
      PrintFigures(*figures);
    }
    return kExitOk;
  });
}

}  // namespace ferrite
