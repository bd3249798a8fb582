#include "vmm/app/move_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "migration/channel/socket/address.h"
#include "vmm/app/commands.h"
#include "vmm/app/follow_move.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/move_text.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

// A frame of pages takes 4 s at that.
constexpr uint64_t kLeastBandwidth = 64 << 10;

absl::Status ReadBandwidth(absl::string_view option, const std::string& text, uint64_t& out) {
  if (text.empty()) {
    return absl::OkStatus();
  }
  auto bytes = ParseByteSize(text);
  FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), option));
  if (*bytes < kLeastBandwidth) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": \"", text, "\" bytes a second move no machine; the least is ",
                     FormatByteSize(kLeastBandwidth), ", and without ", option, " there is no limit"));
  }
  out = *bytes;
  return absl::OkStatus();
}

int ShowStatus(const MoveCommandOptions& options, ControlClient& client) {
  const auto move = client.GetMove();
  if (!move.ok()) {
    return Fail(move.status());
  }
  if (options.json) {
    PrintJson(MoveJson(*move), /*indented=*/false);
  } else if (move->number == 0) {
    fmt::print("{} has not been moved from here\n", options.machine.name);
  } else if (move->over && !move->result.ok()) {
    fmt::print("to {}: {}\n", move->where, FormatMoveFailure(options.machine.name, *move));
  } else if (move->over) {
    fmt::print("to {}: done\n{}\n{}", move->where, FormatGuestPlace(options.machine.name, *move),
               FormatMoveAccount(move->report));
  } else {
    fmt::print("to {}: {}\n", move->where, FormatMoveProgress(*move));
  }
  return kExitOk;
}

class MoveCommand final : public CommandWith<MoveCommandOptions> {
 public:
  MoveCommand()
      : CommandWith({"move",
                     "Move a running machine to another monitor, and print what it cost; ends with 0 only "
                     "when the guest runs there",
                     "ferrite move web1 tcp:192.0.2.7:4000\n  ferrite move web1 --status"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddJson(app, options_.json);
    app.add_option("address", options_.address,
                   "Where `ferrite receive` waits: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH")
        ->type_name("ADDRESS");
    app.add_option("--mode", words_.mode, "auto (pre-copy, then post-copy if need be), precopy or postcopy [auto]")
        ->type_name("MODE")
        ->check(CLI::IsMember({"auto", "precopy", "postcopy"}));
    app.add_option("--downtime-limit", words_.downtime_limit, "How long the guest may stand still [50ms]")
        ->type_name("TIME");
    app.add_option("--max-bandwidth", words_.max_bandwidth, "Bytes a second before the guest goes over [no limit]")
        ->type_name("SIZE");
    app.add_option("--max-postcopy-bandwidth", words_.max_postcopy_bandwidth,
                   "The same afterwards; what the guest waits for is never held back [no limit]")
        ->type_name("SIZE");
    app.add_option("--channels", words_.channels, "Connections for memory, 1 to 16, or auto: as many as help [1]")
        ->type_name("N")
        ->check([](const std::string& text) { return text == "auto" ? std::string() : InRange(1, 16)(text); });
    app.add_option("--disks", words_.disks,
                   "auto (those are copied that `receive --disk-copy` or --disk-copy-dir has a place for), shared "
                   "(none) or mirror (all) [auto]")
        ->type_name("WHICH")
        ->check(CLI::IsMember({"auto", "shared", "mirror"}));
    app.add_option("--timeout", words_.timeout, "How long pre-copy may take [no limit]")->type_name("TIME");
    app.add_option("--on-timeout", words_.on_timeout, "What then: cancel or postcopy [cancel]")
        ->type_name("WHAT")
        ->check(CLI::IsMember({"cancel", "postcopy"}));
    app.add_option("--recover-for", words_.recover_for,
                   "How long to look for the destination when the connection is lost after the guest went over; "
                   "0: only `ferrite recover` does [30s]")
        ->type_name("TIME");
    app.add_option("--patience", words_.patience,
                   "How long the destination may take for each step until memory goes, as to build the machine [60s]")
        ->type_name("TIME");
    AddTls(app, options_.tls, TlsOf::kSource);
    AddRdma(app, words_.rdma);
    app.add_flag("--status", words_.status, "Show the move that is on, or the last one");
    app.add_flag("--cancel", words_.cancel, "Cancel the move that is on: the guest stays");
    app.add_flag("--start-postcopy", words_.start_postcopy, "Hand the guest over now, its memory follows");
  }

  absl::Status Finish() override {
    FERRITE_RETURN_IF_ERROR(CheckMachineName(options_.machine.name));
    const int actions = (words_.status ? 1 : 0) + (words_.cancel ? 1 : 0) + (words_.start_postcopy ? 1 : 0);
    if (actions > 1 || (actions == 1 && !options_.address.empty())) {
      return absl::InvalidArgumentError("give one of ADDRESS, --status, --cancel and --start-postcopy");
    }
    if (actions == 1) {
      options_.action = words_.status ? Action::kStatus : words_.cancel ? Action::kCancel : Action::kStartPostcopy;
      return absl::OkStatus();
    }
    if (options_.address.empty()) {
      return absl::InvalidArgumentError(
          "say where to: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH, as the other monitor's `ferrite receive` prints "
          "it");
    }
    FERRITE_ASSIGN_OR_RETURN(const migration::Address address, migration::ParseAddress(options_.address));
    FERRITE_RETURN_IF_ERROR(FinishTls(options_.tls));
    FERRITE_RETURN_IF_ERROR(FinishRdma(words_.rdma, address, options_.tls, options_.move.rdma));
    if (!words_.on_timeout.empty() && words_.timeout.empty()) {
      return absl::InvalidArgumentError("--on-timeout: after which time? Give --timeout, too");
    }
    using migration::MoveMode;
    options_.move.mode = words_.mode == "precopy"    ? MoveMode::kPrecopy
                         : words_.mode == "postcopy" ? MoveMode::kPostcopy
                                                     : MoveMode::kAuto;
    options_.move.on_timeout =
        words_.on_timeout == "postcopy" ? migration::OnTimeout::kPostcopy : migration::OnTimeout::kCancel;
    using migration::DiskMoves;
    options_.move.disks = words_.disks == "shared"   ? DiskMoves::kShared
                          : words_.disks == "mirror" ? DiskMoves::kMirror
                                                     : DiskMoves::kAuto;
    options_.move.count_channels = words_.channels == "auto";
    if (!words_.channels.empty() && !options_.move.count_channels) {
      (void)absl::SimpleAtoi(words_.channels, &options_.move.channels);
    }
    FERRITE_RETURN_IF_ERROR(ReadDuration("--downtime-limit", words_.downtime_limit, options_.move.downtime_limit));
    FERRITE_RETURN_IF_ERROR(ReadDuration("--timeout", words_.timeout, options_.move.timeout));
    FERRITE_RETURN_IF_ERROR(ReadDurationOrNone("--recover-for", words_.recover_for, options_.move.recover_for));
    FERRITE_RETURN_IF_ERROR(ReadPatience(words_.patience, options_.move.patience));
    FERRITE_RETURN_IF_ERROR(ReadBandwidth("--max-bandwidth", words_.max_bandwidth, options_.move.max_bandwidth));
    return ReadBandwidth("--max-postcopy-bandwidth", words_.max_postcopy_bandwidth,
                         options_.move.max_postcopy_bandwidth);
  }

  int Run(int64_t /*started_ns*/) override {
    const auto destination = MoveDestination(options_.address);
    if (!destination.ok()) {
      return Fail(destination.status());
    }
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      absl::Status status;
      switch (options_.action) {
        case Action::kMove:
          return FollowMove(options_.machine.name, options_.json, client, [&](ControlClient& machine) {
            return machine.StartMove(*destination, options_.move, options_.tls);
          });
        case Action::kStatus:
          return ShowStatus(options_, client);
        case Action::kCancel:
          status = client.CancelMove();
          break;
        case Action::kStartPostcopy:
          status = client.StartPostcopy();
          break;
      }
      return status.ok() ? kExitOk : Fail(status);
    });
  }

 private:
  using Action = MoveCommandOptions::Action;
  // Words that are more than a string or a number.
  struct Words {
    std::string mode;
    std::string disks;
    std::string channels;
    std::string downtime_limit;
    std::string max_bandwidth;
    std::string max_postcopy_bandwidth;
    std::string recover_for;
    std::string patience;
    std::string timeout;
    std::string on_timeout;
    RdmaWords rdma;
    bool status = false;
    bool cancel = false;
    bool start_postcopy = false;
  };

  Words words_;
};

}  // namespace

std::unique_ptr<Command> MakeMoveCommand() { return std::make_unique<MoveCommand>(); }

}  // namespace ferrite
