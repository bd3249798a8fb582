// move, recover
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/address.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/move_text.h"

namespace ferrite {
namespace {

// Whether there is progress to tell: how it ended is told when it is over.
bool Goes(migration::MoveState state) {
  using migration::MoveState;
  return state != MoveState::kNone && state != MoveState::kFailing && state != MoveState::kCancelling &&
         !migration::IsFinal(state);
}

// Shows how a move goes: one line that changes on a terminal, else a line for each change of state or round.
class ProgressPrinter {
 public:
  explicit ProgressPrinter(bool json) : json_(json), live_(!json && isatty(STDOUT_FILENO) != 0) {}

  void Show(const MoveStatus& move) {
    if (json_) {
      PrintJson(MoveJson(move), /*indented=*/false);
    } else if (live_) {
      fmt::print("\r\x1b[K{}", FormatMoveProgress(move));
      drawn_ = true;
    } else if (Goes(move.progress.state) && (move.progress.state != state_ || move.progress.round != round_)) {
      fmt::print("{}\n", FormatMoveProgress(move));
    }
    state_ = move.progress.state;
    round_ = move.progress.round;
    // Whoever reads a pipe wants each line when it happens.
    (void)fflush(stdout);
  }
  // Makes room for other lines.
  void Finish() {
    if (drawn_) {
      fmt::print("\r\x1b[K");
      (void)fflush(stdout);
    }
  }

 private:
  const bool json_;
  const bool live_;
  bool drawn_ = false;
  migration::MoveState state_ = migration::MoveState::kNone;
  uint32_t round_ = 0;
};

// What a move that is over came to; the account last. Returns the exit code.
int ReportOver(const CommandLine& line, const MoveStatus& move) {
  if (line.json) {
    PrintJson(MoveJson(move), /*indented=*/false);
  } else if (move.result.ok()) {
    fmt::print("{}\n{}", FormatGuestPlace(line.name, move), FormatMoveAccount(move.report));
  }
  if (move.result.ok()) {
    return kExitOk;
  }
  return Fail(absl::Status(move.result.code(), FormatMoveFailure(line.name, move)), kExitFailure);
}

// Where the user means; the monitor works in another directory. Nowhere stays nowhere.
absl::StatusOr<std::string> Destination(const CommandLine& line) {
  if (line.move.address.empty()) {
    return std::string();
  }
  FERRITE_ASSIGN_OR_RETURN(migration::Address address, migration::ParseAddress(line.move.address));
  FERRITE_ASSIGN_OR_RETURN(address, AbsoluteAddress(std::move(address)));
  return address.ToString();
}

// Starts a move, or the rest of one, and shows it to its end.
int Follow(const CommandLine& line, ControlClient& client,
           const std::function<absl::StatusOr<uint64_t>(ControlClient&)>& start) {
  // Before the move begins: it may be over soon.
  if (const absl::Status status = client.StartWatching(); !status.ok()) {
    return Fail(status);
  }
  const auto number = start(client);
  if (!number.ok()) {
    return Fail(number.status());
  }
  ProgressPrinter printer(line.json);
  while (true) {
    const auto event = client.NextEvent();
    if (!event.ok()) {
      printer.Finish();
      return Fail(
          absl::Status(event.status().code(), absl::StrCat(event.status().message(),
                                                           "; where the guest is now is not known here: `ferrite info ",
                                                           line.name, "` here and at the destination tells")),
          kExitFailure);
    }
    if (event->event.kind != MachineEvent::Kind::kMove || event->move.number != *number) {
      continue;
    }
    if (event->move.over) {
      printer.Finish();
      return ReportOver(line, event->move);
    }
    printer.Show(event->move);
  }
}

int Status(const CommandLine& line, ControlClient& client) {
  const auto move = client.GetMove();
  if (!move.ok()) {
    return Fail(move.status());
  }
  if (line.json) {
    PrintJson(MoveJson(*move), /*indented=*/false);
  } else if (move->number == 0) {
    fmt::print("{} has not been moved from here\n", line.name);
  } else if (move->over && !move->result.ok()) {
    fmt::print("to {}: {}\n", move->where, FormatMoveFailure(line.name, *move));
  } else if (move->over) {
    fmt::print("to {}: done\n{}\n{}", move->where, FormatGuestPlace(line.name, *move), FormatMoveAccount(move->report));
  } else {
    fmt::print("to {}: {}\n", move->where, FormatMoveProgress(*move));
  }
  return kExitOk;
}

}  // namespace

int MoveCommand(const CommandLine& line) {
  const auto destination = Destination(line);
  if (!destination.ok()) {
    return Fail(destination.status());
  }
  return WithMachine(line, [&](ControlClient& client) -> int {
    absl::Status status;
    switch (line.move.action) {
      case MoveWish::Action::kMove:
        return Follow(line, client,
                      [&](ControlClient& machine) { return machine.StartMove(*destination, line.move.options); });
      case MoveWish::Action::kStatus:
        return Status(line, client);
      case MoveWish::Action::kCancel:
        status = client.CancelMove();
        break;
      case MoveWish::Action::kStartPostcopy:
        status = client.StartPostcopy();
        break;
    }
    return status.ok() ? kExitOk : Fail(status);
  });
}

int RecoverCommand(const CommandLine& line) {
  const auto destination = Destination(line);
  if (!destination.ok()) {
    return Fail(destination.status());
  }
  return WithMachine(line, [&](ControlClient& client) -> int {
    if (!line.move.here) {
      return Follow(line, client, [&](ControlClient& machine) { return machine.RecoverMove(*destination); });
    }
    if (const absl::Status status = client.TakeBack(line.force); !status.ok()) {
      return Fail(status);
    }
    const auto move = client.GetMove();
    if (!move.ok()) {
      return Fail(move.status());
    }
    if (line.json) {
      PrintJson(MoveJson(*move), /*indented=*/false);
    } else {
      fmt::print("{}, as it was when it was handed over to {}\n", FormatGuestPlace(line.name, *move), move->where);
    }
    return kExitOk;
  });
}

}  // namespace ferrite
