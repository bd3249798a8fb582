// The source of the model: departure/.
#include <cstdint>
#include <optional>

#include "base/status.h"
#include "migration/session/decisions.h"
#include "tests/model/hand_over_step.h"

namespace ferrite::migration::hand_over {
namespace {

// What the source waits for.
Word DueAt(uint8_t source) {
  switch (source) {
    case kAwaitLoaded:
      return kLoaded;
    case kAwaitRunning:
    case kAwaitRunningAgain:
      return kRunning;
    case kAwaitMissing:
      return kMissing;
    case kAwaitShut:
      return kShut;
    case kHereAwaitRevoked:
      return kRevoked;
    default:
      return kStanding;
  }
}

bool Waits(uint8_t source) {
  switch (source) {
    case kCopy:
    case kCopyAwaitStanding:
    case kAwaitLoaded:
    case kAwaitRunning:
    case kAwaitShut:
    case kAwaitStanding:
    case kAwaitRunningAgain:
    case kAwaitMissing:
    case kHereAwaitStanding:
    case kHereAwaitRevoked:
    case kServe:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Step::SourceFails() {
  const bool stays = !Is(Mutant::kResumeAfterGrant) && AfterFailure(s.may_run_there != 0) == Fallback::kStandStill;
  if (stays) {
    ChangeSource(MoveState::kPostcopyPaused);
    if (Is(Mutant::kRecordForgottenOnLoss)) {
      s.record = 0;
    }
    s.source = kPaused;
    s.to_send = 0;
    s.force = 0;
    CloseSource();
    return;
  }
  ChangeSource(MoveState::kFailing);
  RunAtSource();
  Down(Make(kError));
  CloseSource();
  ChangeSource(MoveState::kFailed);
}

void Step::RunAtSource() {
  s.record = 0;
  s.source_runs = 1;
  s.may_run_there = 0;
  s.source = kSourceOver;
  s.to_send = 0;
  s.force = 0;
}

void Step::GrantFails(bool refused) {
  s.may_run_there = MayRunAfterFailedGrant(refused || Is(Mutant::kErrorIsRefusal)) ? 1 : 0;
  SourceFails();
}

void Step::SourceCompletes() {
  ChangeSource(MoveState::kCompleted);
  s.source = kSourceOver;
  s.record = 0;
  s.to_send = 0;
  CloseSource();
}

void Step::StartServing() {
  s.source = kServe;
  if (Is(Mutant::kDoneAtRunning)) {
    SourceCompletes();
  }
}

void Step::TakeBack(std::optional<bool> answer, bool reached) {
  if (Is(Mutant::kTakenBackThoughGranted) && answer.has_value()) {
    answer = false;
  }
  if (Is(Mutant::kTakenBackUnanswered)) {
    reached = false;
  }
  switch (DecideTakingBack(answer, /*ended=*/false, reached, s.force != 0)) {
    case TakingBack::kHasGuest:
    case TakingBack::kEnded:
    case TakingBack::kNeedsForce:
      SourceFails();
      return;
    case TakingBack::kRevoke:
      Down(Make(kRevoke));
      s.source = kHereAwaitRevoked;
      if (Is(Mutant::kRevokedNotAwaited)) {
        IsBack();
      }
      return;
    case TakingBack::kOnWord:
      IsBack();
      return;
  }
}

void Step::IsBack() {
  s.may_run_there = 0;
  ChangeSource(MoveState::kFailing);
  RunAtSource();
  CloseSource();
  ChangeSource(MoveState::kFailed);
}

void Step::SourceHears(uint8_t byte) {
  const Word word = WordOf(byte);
  const uint8_t value = ValueOf(byte);
  const bool refused = word == kRefuse;
  if (refused || word == kError) {
    if (s.source == kAwaitRunning || s.source == kAwaitRunningAgain) {
      GrantFails(refused);
    } else if (s.source == kHereAwaitRevoked) {
      IsBack();
    } else if (s.source == kHereAwaitStanding) {
      TakeBack(std::nullopt, /*reached=*/true);
    } else if (s.source == kCopy || s.source == kCopyAwaitStanding) {
      LosesWhileCopying(/*said_why=*/true);
    } else {
      SourceFails();
    }
    return;
  }
  if (const Word due = DueAt(s.source); due != word) {
    // ControlPeer::Misplaced(). While pages are sent nobody reads.
    FERRITE_CHECK(options_.mutant != Mutant::kNone);
    SourceHearsNothingMore();
    return;
  }
  switch (s.source) {
    case kCopyAwaitStanding:
      if (value != 0) {
        LosesWhileCopying(/*said_why=*/false);
        return;
      }
      s.source = kCopy;
      return;
    case kAwaitLoaded:
      s.source = kRecord;
      return;
    case kAwaitRunning:
    case kAwaitRunningAgain:
      if (!AnswersGrant(value, s.epoch) && !Is(Mutant::kAnyRunning)) {
        GrantFails(/*refused=*/false);
        return;
      }
      s.ran_there = 1;
      if (s.source == kAwaitRunning) {
        s.to_send = options_.pages;
        StartServing();
      } else {
        s.source = kAwaitMissing;
      }
      return;
    case kAwaitStanding:
      switch (DecideAfterStanding(value != 0, s.ran_there != 0)) {
        case AfterStanding::kGoOn:
          s.ran_there = 1;
          s.source = kAwaitMissing;
          return;
        case AfterStanding::kContradiction:
          if (!Is(Mutant::kContradictionIsGranted)) {
            SourceFails();
            return;
          }
          [[fallthrough]];
        case AfterStanding::kGrantAgain:
          FERRITE_CHECK(s.epoch < kMostEpochs);
          ++s.epoch;
          s.source = kRecordAgain;
          return;
      }
      return;
    case kAwaitMissing:
      ChangeSource(MoveState::kPostcopyActive);
      s.to_send = Is(Mutant::kSentCountsAsArrived) ? 0 : value;
      StartServing();
      return;
    case kAwaitShut:
      Down(Make(kHeard));
      SourceCompletes();
      return;
    case kHereAwaitStanding:
      TakeBack(value != 0, /*reached=*/true);
      return;
    case kHereAwaitRevoked:
      IsBack();
      return;
    default:
      return;
  }
}

void Step::SourceHearsNothingMore() {
  switch (s.source) {
    case kCopy:
    case kCopyAwaitStanding:
      LosesWhileCopying(/*said_why=*/false);
      return;
    case kAwaitRunning:
    case kAwaitRunningAgain:
      GrantFails(/*refused=*/false);
      return;
    case kAwaitShut:
      if (Is(Mutant::kEndIsSuccess)) {
        SourceCompletes();
        return;
      }
      SourceFails();
      return;
    case kHereAwaitStanding:
      TakeBack(std::nullopt, /*reached=*/true);
      return;
    case kHereAwaitRevoked:
      IsBack();
      return;
    default:
      SourceFails();
      return;
  }
}

void Step::LosesWhileCopying(bool said_why) {
  if (!MaySearchToCopy(source_state(), /*can_resume=*/true, said_why)) {
    SourceFails();
    return;
  }
  CloseSource();
  s.source = kCopyLost;
}

bool Step::Connect(uint8_t epoch) {
  for (int i = 0; i < HandOverModel::kConnections; ++i) {
    if (s.connections[i] == Connection{}) {
      s.source_link = static_cast<uint8_t>(i + 1);
      Connection& c = SourceLink();
      c.source_open = 1;
      c.at_door = s.destination_gone == 2 ? 0 : 1;  // somebody else closes at once
      Down(Make(kRecover, epoch));
      return true;
    }
  }
  return false;
}

void SourceSteps(const HandOverModel::Options& options, const State& s, const HandOverModel::Emit& emit) {
  const auto step = [&] { return Step(options, s); };
  if (s.source_link != 0) {
    const Connection& c = s.connections[s.source_link - 1];
    // The urgent thread of the channel takes words as they come, whatever the other one does: it is asked at kRecorded.
    if (Waits(s.source) && c.up_count > 0 && s.source != kServe) {
      Step next = step();
      Connection& link = next.SourceLink();
      const uint8_t byte = Step::Pop(link.up_count, link.up);
      next.SourceHears(byte);
      static constexpr const char* kWords[] = {"?",    "?", "LOADED", "?",        "RUNNING", "REFUSE", "ERROR",  "?",
                                               "SHUT", "?", "?",      "STANDING", "MISSING", "?",      "REVOKED"};
      emit(kWords[WordOf(byte)], kCourse, next.s);
    }
    const bool ended = c.up_count == 0 && (c.cut || (!c.destination_open && !c.at_door));
    if (Waits(s.source) && ended) {
      Step next = step();
      next.SourceHearsNothingMore();
      emit("the source finds the connection ended", kCourse, next.s);
    } else if (Waits(s.source) && s.faults > 0) {
      Step next = step();
      --next.s.faults;
      next.SourceHearsNothingMore();
      emit("the source loses patience", kFault, next.s);
    }
  }
  switch (s.source) {
    case kCopy: {
      Step next = step();
      next.ChangeSource(MoveState::kDevice);
      next.s.source_runs = 0;
      next.Down(Make(kLastRound));
      next.Down(Make(kPackage));
      next.s.source = kAwaitLoaded;
      emit("the guest stops, and its state goes", kCourse, next.s);
      return;
    }
    case kCopyLost: {
      Step next = step();
      if (Listens(s) && next.Connect(/*epoch=*/0)) {
        next.s.source = kCopyAwaitStanding;
        emit("the source that was copying comes back: RECOVER", kCourse, next.s);
      }
      // The search has an end.
      const bool is_there = Listens(s) && s.destination_gone == 0;
      if ((!is_there || s.faults > 0) && !next.Is(Mutant::kSearchesForEver)) {
        Step fails = step();
        fails.s.faults -= is_there ? 1 : 0;
        fails.SourceFails();
        emit("the destination is not found", is_there ? kFault : kCourse, fails.s);
      }
      return;
    }
    case kRecord: {
      Step next = step();
      next.ChangeSource(MoveState::kPostcopyActive);
      if (next.Is(Mutant::kGrantBeforeRecord)) {
        next.s.may_run_there = 1;
        next.Down(Make(kGrant, s.epoch));
        next.s.source = kGrantedUnrecorded;
      } else {
        next.s.record = s.epoch;
        next.s.source = kRecorded;
      }
      emit("the source goes to grant, and writes its record", kCourse, next.s);
      if (s.faults > 0) {
        Step full = step();
        --full.s.faults;
        full.ChangeSource(MoveState::kPostcopyActive);
        full.SourceFails();
        emit("the record cannot be written", kFault, full.s);
      }
      return;
    }
    case kGrantedUnrecorded: {
      Step next = step();
      next.s.record = s.epoch;
      next.s.source = kAwaitRunning;
      emit("the source writes its record", kCourse, next.s);
      return;
    }
    case kRecorded: {
      // A REFUSE that has come may have been heard by now, or not.
      const Connection& c = s.connections[s.source_link - 1];
      for (uint8_t i = 0; i < c.up_count; ++i) {
        if (WordOf(c.up[i]) == kRefuse) {
          Step refused = step();
          refused.SourceFails();
          emit("REFUSE comes before GRANT goes out", kCourse, refused.s);
          break;
        }
      }
      Step next = step();
      next.s.may_run_there = 1;
      next.Down(Make(kGrant, s.epoch));
      next.s.source = kAwaitRunning;
      emit("the source sends GRANT", kCourse, next.s);
      return;
    }
    case kRecordAgain: {
      Step next = step();
      next.s.record = s.epoch;
      next.Down(Make(kGrant, s.epoch));
      next.s.source = kAwaitRunningAgain;
      emit("the source writes its record and sends GRANT again", kCourse, next.s);
      if (s.faults > 0) {
        Step full = step();
        --full.s.faults;
        full.SourceFails();
        emit("the record cannot be written again", kFault, full.s);
      }
      return;
    }
    case kServe: {
      const Connection& c = s.connections[s.source_link - 1];
      Step next = step();
      if (s.to_send > 0) {
        --next.s.to_send;
        if ((c.destination_open || c.at_door) && !c.cut) {
          ++next.SourceLink().pages;
        }
        emit("the source sends a page", kCourse, next.s);
      } else {
        next.Down(Make(kEnd));
        next.s.source = kAwaitShut;
        emit("the source sends END", kCourse, next.s);
      }
      return;
    }
    case kPaused: {
      Step next = step();
      if (MaySearch(next.source_state(), /*can_recover=*/true) && Listens(s) && next.Connect(s.epoch)) {
        next.ChangeSource(MoveState::kPostcopyRecover);
        next.s.source = kAwaitStanding;
        emit("the source comes back: RECOVER", kCourse, next.s);
      }
      if (s.here == 0) {
        return;
      }
      for (const uint8_t force : {uint8_t{0}, uint8_t{1}}) {
        Step here = step();
        --here.s.here;
        here.s.force = force;
        here.ChangeSource(MoveState::kPostcopyRecover);
        // A person who knows better gives force only when the destination is gone for good.
        const bool gone = s.destination_gone != 0 || (s.destination == kDestinationOver && !s.destination_runs);
        if (force != 0 && !gone && !options.person_errs) {
          continue;
        }
        if (Listens(s)) {
          Step asks = here;
          if (asks.Connect(s.epoch)) {
            asks.s.source = kHereAwaitStanding;
            emit(force != 0 ? "recover --here --force: RECOVER" : "recover --here: RECOVER", kPerson, asks.s);
          }
        }
        if (gone ? !Listens(s) : options.person_errs) {
          here.TakeBack(std::nullopt, /*reached=*/false);
          emit("recover --here, and nobody can be reached", kPerson, here.s);
        }
      }
      return;
    }
    default:
      return;
  }
}

}  // namespace ferrite::migration::hand_over
