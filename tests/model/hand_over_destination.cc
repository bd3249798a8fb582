// The destination of the model: arrival/.
#include <cstdint>

#include "migration/session/decisions.h"
#include "tests/model/hand_over_step.h"

namespace ferrite::migration::hand_over {

void Step::DestinationGivesUp(bool connected, MoveState way) {
  if (DecideLastWord(connected, s.loaded != 0) == LastWord::kRefuse) {
    Up(Make(kRefuse));
  } else if (connected) {
    Up(Make(kError));
  }
  if (destination_state() != way) {
    ChangeDestination(way);
  }
  ChangeDestination(way == MoveState::kFailing ? MoveState::kFailed : MoveState::kCancelled);
  s.destination = kDestinationOver;
  CloseDestination();
  CloseDoor();
}

void Step::DestinationLosesSource(bool lost, bool said_why) {
  const bool comes_back = DecideMayComeBack(destination_state(), {.can_recover = true,
                                                                  .can_resume = true,
                                                                  .loaded = s.loaded != 0,
                                                                  .lost = lost && !Is(Mutant::kGivesUpWhenGrantMayCome),
                                                                  .said_why = said_why});
  if (Is(Mutant::kForgetsMoveOnLoss) && HasGuest(destination_state())) {
    s.destination = kDestinationOver;
    CloseDestination();
    CloseDoor();
    return;
  }
  if (comes_back) {
    Look();
    return;
  }
  DestinationGivesUp(!lost && !said_why, MoveState::kFailing);
}

void Step::Look() {
  if (MissesPages(destination_state(), s.settled != 0) && destination_state() == MoveState::kPostcopyActive) {
    ChangeDestination(MoveState::kPostcopyPaused);
  }
  if (Is(Mutant::kOldConnectionHeard) && s.old_link == 0 && s.destination_link != 0) {
    s.old_link = s.destination_link;
    s.destination_link = 0;
  } else {
    CloseDestination();
  }
  s.destination = kLook;
}

void Step::TakeOver(uint8_t epoch) {
  s.granted_epoch = epoch;
  if (DecideOnGrant(/*same_move=*/true, s.loaded != 0) != OnGrant::kRun) {
    DestinationLosesSource(/*lost=*/false, /*said_why=*/false);
    return;
  }
  ChangeDestination(MoveState::kPostcopyActive);
  s.destination_runs = 1;
  Up(Make(kRunning, epoch));
}

void Step::CannotTakeOver() {
  ChangeDestination(MoveState::kPostcopyActive);
  DestinationGivesUp(/*connected=*/true, MoveState::kFailing);
}

void Step::ReceiveTheRest() {
  if (s.missing != 0 && !s.settled) {
    s.destination = kReceiveRest;
    return;
  }
  s.settled = 1;
  Up(Make(kShut));
  s.destination = kAwaitHeard;
}

void Step::DestinationCompletes() {
  ChangeDestination(MoveState::kCompleted);
  s.destination = kDestinationOver;
  CloseDestination();
  CloseDoor();
}

void Step::DestinationHears(uint8_t byte) {
  const Word word = WordOf(byte);
  const uint8_t value = ValueOf(byte);
  switch (s.destination) {
    case kReceive:
      if (word == kLastRound) {
        ChangeDestination(MoveState::kDevice);
      } else if (word == kPackage) {
        s.loaded = 1;
        Up(Make(kLoaded));
      } else if (word == kGrant) {
        TakeOver(value);
        if (s.destination == kReceive) {
          ReceiveTheRest();
        }
      } else {
        DestinationLosesSource(/*lost=*/true, /*said_why=*/true);
      }
      return;
    case kReceiveRest:
      if (word == kEnd && Is(Mutant::kShutWithoutPages)) {
        s.settled = 1;
        ReceiveTheRest();
      } else if (word == kError) {
        DestinationLosesSource(/*lost=*/true, /*said_why=*/true);
      }
      return;
    case kAwaitHeard:
      if (word == kHeard) {
        DestinationCompletes();
      } else if (word == kError) {
        DestinationLosesSource(/*lost=*/true, /*said_why=*/true);
      }
      return;
    case kAwaitRecover: {
      if (word != kRecover) {
        Look();
        return;
      }
      OnRecover standing = DecideOnRecover(destination_state(), s.granted_epoch, value);
      if (standing == OnRecover::kWrongEpoch && Is(Mutant::kAnyEpochRecovers)) {
        standing = OnRecover::kGranted;
      }
      if (standing == OnRecover::kCopying) {
        Up(Make(kStanding));
        s.destination = kReceive;
      } else if (standing == OnRecover::kNotGranted) {
        Up(Make(kStanding, Is(Mutant::kSaysGranted) ? 1 : 0));
        s.destination = kAwaitGrantOrRevoke;
      } else if (standing == OnRecover::kGranted) {
        Up(Make(kStanding, 1));
        Up(Make(kMissing, s.missing));
        if (destination_state() == MoveState::kPostcopyPaused) {
          ChangeDestination(MoveState::kPostcopyRecover);
          ChangeDestination(MoveState::kPostcopyActive);
        }
        ReceiveTheRest();
      } else {
        Look();
      }
      return;
    }
    case kAwaitGrantOrRevoke:
      if (word == kRevoke) {
        Up(Make(kRevoked));
        DestinationGivesUp(/*connected=*/true, MoveState::kFailing);
        if (Is(Mutant::kRunsAfterRevoked)) {
          s.destination_runs = 1;
        }
      } else if (word == kGrant) {
        TakeOver(value);
        Up(Make(kMissing, s.missing));
        ReceiveTheRest();
      } else {
        Look();
      }
      return;
    default:
      return;
  }
}

void DestinationSteps(const HandOverModel::Options& options, const State& s, const HandOverModel::Emit& emit) {
  const auto step = [&] { return Step(options, s); };
  if (s.old_link != 0) {
    // kOldConnectionHeard.
    const Connection& c = s.connections[s.old_link - 1];
    if (c.down_count > 0 && (s.destination == kAwaitGrantOrRevoke || s.destination == kLook)) {
      Step next = step();
      Connection& link = next.s.connections[s.old_link - 1];
      const uint8_t byte = Step::Pop(link.down_count, link.down);
      if (WordOf(byte) == kGrant && next.destination_state() == MoveState::kDevice) {
        next.TakeOver(ValueOf(byte));
        next.ReceiveTheRest();
      }
      emit("the destination hears what was late on the old connection", kCourse, next.s);
    }
    Step late = step();
    Connection& link = late.s.connections[s.old_link - 1];
    link.destination_open = 0;
    Step::Tidy(link);
    late.s.old_link = 0;
    emit("the destination lets go of the old connection", kCourse, late.s);
  }
  if (s.destination == kLook) {
    bool expected = s.source == kPaused || s.source == kCopyLost;
    for (int i = 0; i < HandOverModel::kConnections; ++i) {
      if (s.connections[i].at_door) {
        expected = true;
        Step next = step();
        next.s.connections[i].at_door = 0;
        next.s.connections[i].destination_open = 1;
        next.s.destination_link = static_cast<uint8_t>(i + 1);
        next.s.destination = kAwaitRecover;
        emit("the destination takes a connection at its door", kCourse, next.s);
      }
    }
    const bool source_is_over = s.source == kSourceOver || s.source == kSourceGone;
    if (!MissesPages(static_cast<MoveState>(s.destination_state), s.settled != 0) &&
        ((source_is_over && !expected) || s.faults > 0)) {
      Step next = step();
      const bool fault = !source_is_over || expected;
      next.s.faults -= fault ? 1 : 0;
      if (s.settled) {
        next.DestinationCompletes();
      } else if (next.Is(Mutant::kRunsWithoutGrant)) {
        next.ChangeDestination(MoveState::kPostcopyActive);
        next.s.destination_runs = 1;
        next.Look();
      } else {
        next.DestinationGivesUp(/*connected=*/false, MoveState::kFailing);
      }
      emit("the destination has waited long enough", fault ? kFault : kCourse, next.s);
    }
    return;
  }
  if (s.destination == kHasRefused) {
    if (s.connections[s.destination_link - 1].down_count > 0) {
      Step next = step();
      Connection& link = next.DestinationLink();
      const uint8_t byte = Step::Pop(link.down_count, link.down);
      next.s.destination = kReceive;
      next.DestinationHears(byte);
      emit("the destination hears a word after its REFUSE", kCourse, next.s);
    }
    Step next = step();
    next.DestinationGivesUp(/*connected=*/false, MoveState::kCancelling);
    emit("the destination decides", kCourse, next.s);
    return;
  }
  if (s.destination_link == 0) {
    return;
  }
  const Connection& c = s.connections[s.destination_link - 1];
  if (c.down_count > 0) {
    Step next = step();
    Connection& link = next.DestinationLink();
    const uint8_t byte = Step::Pop(link.down_count, link.down);
    next.DestinationHears(byte);
    static constexpr const char* kWords[] = {"?", "PACKAGE", "?",       "GRANT", "?", "?",      "ERROR", "END",
                                             "?", "HEARD",   "RECOVER", "?",     "?", "REVOKE", "?",     "LAST ROUND"};
    emit(kWords[WordOf(byte)], kCourse, next.s);
    if (WordOf(byte) == kGrant && s.faults > 0) {
      Step fails = step();
      --fails.s.faults;
      Connection& same = fails.DestinationLink();
      (void)Step::Pop(same.down_count, same.down);
      fails.CannotTakeOver();
      emit("GRANT, and the guest cannot run there", kFault, fails.s);
    }
  }
  if (s.destination == kReceiveRest && c.pages > 0) {
    Step next = step();
    --next.DestinationLink().pages;
    if (s.missing > 0) {
      --next.s.missing;
    }
    next.ReceiveTheRest();
    emit("a page arrives", kCourse, next.s);
  }
  const bool ended = c.down_count == 0 && c.pages == 0 && (c.cut || !c.source_open);
  if (ended || s.faults > 0) {
    Step next = step();
    next.s.faults -= ended ? 0 : 1;
    if (s.destination == kAwaitRecover || s.destination == kAwaitGrantOrRevoke) {
      next.Look();
    } else {
      // Of a wait of its own for GRANT the connection knows nothing: it can still be told.
      next.DestinationLosesSource(ended || s.destination != kReceive, /*said_why=*/false);
    }
    emit(ended ? "the destination finds the connection ended" : "the destination loses patience",
         ended ? kCourse : kFault, next.s);
  }
}

}  // namespace ferrite::migration::hand_over
