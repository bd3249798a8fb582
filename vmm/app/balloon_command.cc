#include "vmm/app/balloon_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "base/byte_size.h"
#include "base/status.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

void PrintFigures(const BalloonFigures& figures) {
  fmt::print("target {}\nactual {}\n", FormatByteSize(figures.target_bytes), FormatByteSize(figures.actual_bytes));
  for (const auto& [name, value] : figures.statistics) {
    fmt::print("{} {}\n", name, value);
  }
}

class BalloonCommand final : public CommandWith<BalloonCommandOptions> {
 public:
  BalloonCommand()
      : CommandWith({"balloon", "Show or set a machine's balloon: the guest memory that is given back to the host",
                     "ferrite balloon web1 256M --wait"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    app.add_option("size", size_, "Guest memory that shall be given back: 256M; 0 gives all of it to the guest again")
        ->type_name("SIZE");
    app.add_flag("--wait", options_.wait, "Return when the guest has reached SIZE, or at the timeout with exit code 5");
    AddJson(app, options_.json);
    AddTimeout(app, options_.machine);
  }

  absl::Status Finish() override {
    FERRITE_RETURN_IF_ERROR(CheckMachineName(options_.machine.name));
    if (!size_.empty()) {
      FERRITE_ASSIGN_OR_RETURN(options_.bytes, ParseByteSize(size_));
    }
    if (options_.wait && !options_.bytes.has_value()) {
      return absl::InvalidArgumentError("--wait: there is no SIZE to wait for");
    }
    return absl::OkStatus();
  }

  int Run(int64_t /*started_ns*/) override {
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      const auto figures =
          options_.bytes.has_value()
              ? client.SetBalloon(*options_.bytes, options_.wait ? options_.machine.timeout : absl::ZeroDuration())
              : client.Balloon();
      if (!figures.ok()) {
        return Fail(figures.status());
      }
      if (options_.json) {
        PrintJson(BalloonJson(*figures), /*indented=*/true);
      } else {
        PrintFigures(*figures);
      }
      return kExitOk;
    });
  }

 private:
  std::string size_;  // `bytes` as it was written
};

}  // namespace

std::unique_ptr<Command> MakeBalloonCommand() { return std::make_unique<BalloonCommand>(); }

}  // namespace ferrite
