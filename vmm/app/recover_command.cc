#include "vmm/app/recover_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "base/status.h"
#include "migration/channel/socket/address.h"
#include "vmm/app/commands.h"
#include "vmm/app/follow_move.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/move_text.h"
#include "vmm/app/text.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

class RecoverCommand final : public CommandWith<RecoverCommandOptions> {
 public:
  RecoverCommand()
      : CommandWith(
            {"recover",
             "Go on with a move whose connection was lost after the machine was handed over, or take the machine back",
             "ferrite recover web1\n  ferrite recover web1 --here"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddTimeout(app, options_.machine);
    AddJson(app, options_.json);
    app.add_option("address", options_.address, "Where the destination listens now [where it did]")
        ->type_name("ADDRESS");
    AddTls(app, options_.tls, TlsOf::kSource);
    app.add_flag("--here", options_.here,
                 "Run the machine here again, as it was when it was handed over: only when the destination is gone for "
                 "good. What it did there since is lost. A destination that answers and has it keeps it");
    app.add_flag("--force", options_.force,
                 "With --here: also when somebody listens at the destination who does not answer");
  }

  absl::Status Finish() override {
    FERRITE_RETURN_IF_ERROR(CheckMachineName(options_.machine.name));
    if (options_.tls.on() && options_.here) {
      return absl::InvalidArgumentError("--tls-dir, --tls-psk: over what a move goes on; not with --here");
    }
    FERRITE_RETURN_IF_ERROR(FinishTls(options_.tls));
    if (options_.address.empty()) {
      return absl::OkStatus();
    }
    return options_.here ? absl::InvalidArgumentError("give ADDRESS or --here, not both")
                         : migration::ParseAddress(options_.address).status();
  }

  int Run(int64_t /*started_ns*/) override {
    const std::string& name = options_.machine.name;
    const auto destination = MoveDestination(options_.address);
    if (!destination.ok()) {
      return Fail(destination.status());
    }
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      if (!options_.here) {
        return FollowMove(name, options_.json, client,
                          [&](ControlClient& machine) { return machine.RecoverMove(*destination, options_.tls); });
      }
      if (const absl::Status status = client.TakeBack(options_.force); !status.ok()) {
        return Fail(status);
      }
      const auto move = client.GetMove();
      if (!move.ok()) {
        return Fail(move.status());
      }
      if (options_.json) {
        PrintJson(MoveJson(*move), /*indented=*/false);
      } else {
        fmt::print("{}, as it was when it was handed over to {} {} ago\n", FormatGuestPlace(name, *move), move->where,
                   FormatUptime(move->progress.granted_for));
      }
      return kExitOk;
    });
  }
};

}  // namespace

std::unique_ptr<Command> MakeRecoverCommand() { return std::make_unique<RecoverCommand>(); }

}  // namespace ferrite
