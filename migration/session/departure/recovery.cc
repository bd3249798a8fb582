#include "migration/session/departure/recovery.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/api/remedy.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "migration/session/decisions.h"
#include "migration/session/departure/giving_up.h"
#include "migration/session/departure/handover.h"
#include "migration/session/departure/handshake.h"

namespace ferrite::migration {
namespace {

// Between two tries to find a destination again.
constexpr absl::Duration kRecoveryPause = absl::Milliseconds(250);
// And at most, where they led to nothing although it was found.
constexpr absl::Duration kLongestRecoveryPause = absl::Seconds(4);
// What a destination that was found has to answer in, however little is left of MoveOptions::recover_for.
constexpr absl::Duration kLeastToAnswer = absl::Seconds(1);

absl::Status SearchEnded() { return absl::CancelledError("the search for the destination was ended"); }

// One search, of one try after the other.
struct Search {
  // For progress: MoveOptions::recover_for, or, where that is none and the user asks for a search, its default.
  absl::Duration time;
  // When it is over. Time is given for progress: a connection that is found again and again, and lost before anything
  // came of it, is none.
  MonotonicTime until;
  std::optional<uint64_t> least_missing;  // 4 KiB pages, that the destination told
  bool told = false;                      // at the last try

  // Of an answer that is due now.
  absl::Duration Limit(const Departure& departure) const {
    return std::min(departure.options.patience, std::max(until - departure.Now(), kLeastToAnswer));
  }
};

// Forgets the connections, and gets ready for others.
absl::Status StartAnew(Departure& departure) {
  MoveStateMachine& state = departure.shared.state();
  if (!state.Change(MoveState::kPostcopyPaused, MoveState::kPostcopyRecover)) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is nothing to recover: the move is ", MoveStateName(state.get())));
  }
  departure.link.Close();
  departure.pending = nullptr;
  departure.reached = false;
  // Who leaves from here on ends the try; who left before does so at once.
  departure.on_leave.reset();
  departure.on_leave.emplace(departure.shared.leave(),
                             [&departure](const absl::Status& why) { departure.link.broken().Cancel(why); });
  return departure.link.broken().reason();
}

// Adds the pages of a MISSING to `runs`; `pages_left`: how many can still be missing.
absl::Status TakeMissing(Departure& departure, const message::Missing& missing, uint64_t& pages_left,
                         std::vector<PageRange>& runs) {
  const std::vector<MachineSpec::Region>& regions = departure.regions;
  if (missing.ranges.empty() && !missing.last) {
    return absl::InvalidArgumentError("MISSING: nothing in it, and not the last one");
  }
  for (const PageRange& run : missing.ranges) {
    const uint64_t pages = run.region < regions.size() ? regions[run.region].bytes / kPageBytes : 0;
    // Its host's pages may be smaller than those of this one: a part of one is missing where a connection broke in it.
    const bool is_there = run.first < pages && run.count > 0 && run.count <= pages - run.first;
    if (is_there && departure.region_is_mirrored[run.region]) {
      return absl::InvalidArgumentError(absl::StrCat("MISSING: pages of ", regions[run.region].name,
                                                     ", of which none was missing when the guest was handed over"));
    }
    if (!is_there || run.count > pages_left) {
      return absl::InvalidArgumentError(absl::StrCat("MISSING: pages ", run.first, "+", run.count, " of region ",
                                                     run.region, " are not in it, or told twice"));
    }
    pages_left -= run.count;
    runs.push_back(run);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PageRange>> AskWhatIsMissing(Departure& departure, absl::Duration limit) {
  const MonotonicTime deadline = departure.Now() + limit;
  std::vector<PageRange> runs;
  uint64_t pages_left = 0;
  for (const MachineSpec::Region& region : departure.regions) {
    pages_left += region.bytes / kPageBytes;
  }
  while (true) {
    const absl::Duration left = deadline - departure.Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("the destination lives, but did not say what is missing within ", absl::FormatDuration(limit)));
    }
    FERRITE_ASSIGN_OR_RETURN(const message::Missing missing, departure.peer().Expect<message::Missing>(left));
    FERRITE_RETURN_IF_ERROR(TakeMissing(departure, missing, pages_left, runs));
    if (missing.last) {
      return runs;
    }
  }
}

// The destination has GRANT when this is OK: it had it, or gets it again.
absl::Status MakeSureOfGrant(Departure& departure, const std::shared_ptr<ChannelOpener>& opener, Search& search) {
  FERRITE_ASSIGN_OR_RETURN(const bool granted,
                           AskWhetherGranted(departure, *opener, departure.epoch, search.Limit(departure)));
  // It answers for this move, so it is there.
  departure.opener = opener;
  departure.shared.TellWhere(opener->where());
  const bool had_run = departure.shared.ran_there;
  switch (DecideAfterStanding(granted, had_run)) {
    case AfterStanding::kGoOn:
      departure.shared.ran_there = true;
      break;
    case AfterStanding::kContradiction:
      return absl::InvalidArgumentError("STANDING: the destination says that it never got GRANT, and had said RUNNING");
    case AfterStanding::kGrantAgain: {
      const MonotonicTime start = departure.Now();
      ++departure.epoch;
      FERRITE_RETURN_IF_ERROR(
          departure.machine.handover().RecordGrant(departure.id, departure.epoch, departure.shared.where()));
      FERRITE_RETURN_IF_ERROR(SendGrant(departure, start, search.Limit(departure)));
      break;
    }
  }
  if (!had_run) {
    // Once in a move.
    search.until = departure.Now() + search.time;
  }
  return absl::OkStatus();
}

// One try, of which each answer is to come before the end of the search; that moves on with what comes of it.
absl::Status TryToRecover(Departure& departure, const std::shared_ptr<ChannelOpener>& opener, Search& search) {
  search.told = false;
  FERRITE_RETURN_IF_ERROR(StartAnew(departure));
  FERRITE_RETURN_IF_ERROR(MakeSureOfGrant(departure, opener, search));
  FERRITE_ASSIGN_OR_RETURN(const std::vector<PageRange> missing, AskWhatIsMissing(departure, search.Limit(departure)));
  search.told = true;
  uint64_t missing_pages = 0;
  for (const PageRange& run : missing) {
    missing_pages += run.count;
  }
  // Of the first time nobody knows how many were missing before.
  const bool first = !search.least_missing.has_value();
  const bool fewer = !first && missing_pages < *search.least_missing;
  search.least_missing = std::min(missing_pages, search.least_missing.value_or(missing_pages));
  if (fewer) {
    search.until = departure.Now() + search.time;
  }
  FERRITE_RETURN_IF_ERROR(OpenPages(departure, departure.epoch, search.Limit(departure)));
  for (const PageRange& run : missing) {
    departure.pages().MakePending(run);
  }
  // It is found: who leaves does not end this any more.
  departure.on_leave.reset();
  FERRITE_RETURN_IF_ERROR(departure.link.broken().reason());
  FERRITE_CHECK(departure.shared.state().Change(MoveState::kPostcopyRecover, MoveState::kPostcopyActive));
  ++departure.report.recoveries;
  departure.serving = true;
  departure.pages().StartPostcopy();
  if (departure.can_have_fewer()) {
    departure.link.HearOfBroken();
  }
  departure.pages().StartRest();
  departure.Publish(Departure::Rate::kFromHere);
  const MonotonicTime served_from = departure.Now();
  const absl::Status status = Annotate(End(departure), "post-copy");
  if (first || fewer) {
    // It was not looked for meanwhile. Of one to which pages were sent before, and which misses as many, that is not
    // said.
    search.until += departure.Now() - served_from;
  }
  return status;
}

absl::Status TryToTakeBack(Departure& departure, bool force) {
  FERRITE_RETURN_IF_ERROR(StartAnew(departure));
  const absl::StatusOr<bool> granted =
      AskWhetherGranted(departure, *departure.opener, departure.epoch, departure.options.patience);
  const std::optional<bool> answer = granted.ok() ? std::optional(*granted) : std::nullopt;
  switch (DecideTakingBack(answer, departure.shared.leave().cancelled(), departure.reached, force)) {
    case TakingBack::kHasGuest:
      return absl::FailedPreconditionError("the destination says that it has the guest");
    case TakingBack::kEnded:
      return absl::CancelledError("the guest was not taken back: this was ended");
    case TakingBack::kNeedsForce:
      return WithRemedy(
          absl::UnavailableError(absl::StrCat("somebody listens there but does not say whether it has the guest: ",
                                              granted.status().message())),
          Remedy::kForce);
    case TakingBack::kRevoke:
      // Whether or not the answer comes: nobody but this side could grant it any more, and it will not.
      (void)departure.peer().Send(message::Revoke{});
      (void)departure.peer().Expect<message::Revoked>(departure.options.patience);
      break;
    case TakingBack::kOnWord:
      break;
  }
  departure.may_run_there = false;
  MoveStateMachine& state = departure.shared.state();
  FERRITE_CHECK(state.Change(MoveState::kPostcopyRecover, MoveState::kFailing));
  // The guest is this side's from here on.
  absl::Status status;
  UntilThereIsMemory([&] {
    if (departure.link.peer() != nullptr) {
      departure.peer().Shutdown(absl::CancelledError("the guest was taken back"));
    }
    status = departure.undo.Run();
  });
  FERRITE_CHECK(state.Change(MoveState::kFailing, MoveState::kFailed));
  departure.Publish();
  return status;
}

}  // namespace

absl::Status KeepTrying(Departure& departure, const std::shared_ptr<ChannelOpener>& opener, const absl::Status& lost) {
  const absl::Cleanup found_or_left = [&] { departure.on_leave.reset(); };
  CancelToken& leave = departure.shared.leave();
  const MoveStateMachine& state = departure.shared.state();
  absl::Status status = lost.ok() ? SearchEnded() : lost;
  if (!lost.ok() && departure.options.recover_for <= absl::ZeroDuration()) {
    // It is left to the user.
    departure.Publish();
    return status;
  }
  const absl::Duration time =
      departure.options.recover_for > absl::ZeroDuration() ? departure.options.recover_for : MoveOptions().recover_for;
  Search search{.time = time, .until = departure.Now() + time, .least_missing = std::nullopt};
  FailedTries tries;
  absl::Duration pause;
  while (MaySearch(state.get(), (departure.features & kFeatureRecovery) != 0)) {
    departure.Publish();
    if (leave.WaitFor(departure.host.clock, pause)) {
      break;
    }
    const MonotonicTime until_before = search.until;
    const absl::Status now = CatchOutOfMemory([&] { return TryToRecover(departure, opener, search); });
    if (now.ok()) {
      return now;
    }
    absl::Status given_up = GiveUp(departure, now);
    if (lost.ok() || state.get() != MoveState::kPostcopyPaused) {
      status = std::move(given_up);
    } else {
      const ControlPeer* const peer = departure.link.peer();
      IfThereIsMemory([&] {
        tries.Note(peer != nullptr && peer->said_why() ? peer->failure() : now);
        status = tries.After(lost);
      });
    }
    // Found, and lost again for nothing.
    const bool in_vain = search.told && search.until == until_before;
    pause = in_vain ? std::min(std::max(2 * pause, kRecoveryPause), kLongestRecoveryPause) : kRecoveryPause;
    if (departure.Now() >= search.until) {
      break;
    }
  }
  return status;
}

absl::Status TakeBack(Departure& departure, bool force) {
  const absl::Cleanup over = [&] { departure.on_leave.reset(); };
  const absl::Status status = CatchOutOfMemory([&] { return TryToTakeBack(departure, force); });
  return departure.shared.state().get() == MoveState::kPostcopyRecover ? GiveUp(departure, status) : status;
}

}  // namespace ferrite::migration
