#include "vmm/app/follow_move.h"

#include <fmt/format.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/socket/address.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/move_text.h"
#include "vmm/app/progress_line.h"

namespace ferrite {
namespace {

// Whether there is progress to tell: how it ended is told when it is over.
bool InProgress(migration::MoveState state) {
  using migration::MoveState;
  return state != MoveState::kNone && state != MoveState::kFailing && state != MoveState::kCancelling &&
         !migration::IsFinal(state);
}

// Shows how a move goes: elsewhere than on a terminal a line for each change of state or round.
class ProgressPrinter {
 public:
  explicit ProgressPrinter(bool json) : line_(json) {}

  void Show(const MoveStatus& move) {
    const bool is_news =
        InProgress(move.progress.state) && (move.progress.state != state_ || move.progress.round != round_);
    line_.Show(
        is_news, [&] { return FormatMoveProgress(move); }, [&] { return MoveJson(move); });
    state_ = move.progress.state;
    round_ = move.progress.round;
  }
  void Finish() const { line_.Finish(); }

 private:
  ProgressLine line_;
  migration::MoveState state_ = migration::MoveState::kNone;
  uint32_t round_ = 0;
};

// Prints how a move ended, the account last. Returns the exit code.
int ReportOver(const std::string& name, bool json, const MoveStatus& move) {
  if (json) {
    PrintJson(MoveJson(move), /*indented=*/false);
  } else if (move.result.ok()) {
    fmt::print("{}\n{}", FormatGuestPlace(name, move), FormatMoveAccount(move.report));
  }
  if (move.result.ok()) {
    return kExitOk;
  }
  return Fail(absl::Status(move.result.code(), FormatMoveFailure(name, move)), kExitFailure);
}

}  // namespace

absl::StatusOr<std::string> MoveDestination(absl::string_view address) {
  if (address.empty()) {
    return std::string();
  }
  FERRITE_ASSIGN_OR_RETURN(migration::Address parsed, migration::ParseAddress(address));
  FERRITE_ASSIGN_OR_RETURN(parsed, AbsoluteAddress(std::move(parsed)));
  return parsed.ToString();
}

int FollowMove(const std::string& name, bool json, ControlClient& client,
               const std::function<absl::StatusOr<uint64_t>(ControlClient&)>& start) {
  // Before the move begins: it may be over soon.
  if (const absl::Status status = client.StartWatching(); !status.ok()) {
    return Fail(status);
  }
  const auto number = start(client);
  if (!number.ok()) {
    return Fail(number.status());
  }
  ProgressPrinter printer(json);
  while (true) {
    const auto event = client.NextEvent();
    if (!event.ok()) {
      printer.Finish();
      return Fail(
          absl::Status(event.status().code(), absl::StrCat(event.status().message(),
                                                           "; where the guest is now is not known here: `ferrite info ",
                                                           name, "` here and at the destination tells")),
          kExitFailure);
    }
    if (event->event.kind != MachineEvent::Kind::kMove || event->move.number != *number) {
      continue;
    }
    if (event->move.over) {
      printer.Finish();
      return ReportOver(name, json, event->move);
    }
    printer.Show(event->move);
  }
}

}  // namespace ferrite
