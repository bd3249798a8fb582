// What befalls the sides of the model: cuts, cancels, killed monitors, and people.
#include <cstdint>

#include "tests/model/hand_over_step.h"

namespace ferrite::migration::hand_over {

void FaultSteps(const HandOverModel::Options& options, const State& s, const HandOverModel::Emit& emit) {
  const auto step = [&] { return Step(options, s); };
  if (s.faults > 0) {
    for (int i = 0; i < HandOverModel::kConnections; ++i) {
      const Connection& c = s.connections[i];
      if (c == Connection{} || c.cut) {
        continue;
      }
      for (uint8_t down = 0; down <= c.down_count; ++down) {
        for (uint8_t up = 0; up <= c.up_count; ++up) {
          Step next = step();
          --next.s.faults;
          Connection& cut = next.s.connections[i];
          cut.cut = 1;
          cut.pages = 0;
          Step::Truncate(cut.down_count, cut.down, down);
          Step::Truncate(cut.up_count, cut.up, up);
          emit("a connection is cut, and what was on its way is lost or comes late", kFault, next.s);
        }
      }
    }
    if (s.source == kAwaitLoaded || s.source == kCopy || s.source == kCopyLost || s.source == kCopyAwaitStanding) {
      Step next = step();
      --next.s.faults;
      next.ChangeSource(MoveState::kCancelling);
      next.RunAtSource();
      next.Down(Make(kError));
      next.CloseSource();
      next.ChangeSource(MoveState::kCancelled);
      emit("the move is cancelled at the source", kFault, next.s);
    }
    const auto there = static_cast<MoveState>(s.destination_state);
    if ((there == MoveState::kDevice || there == MoveState::kActive) && s.destination_link != 0) {
      Step next = step();
      --next.s.faults;
      if (next.Is(Mutant::kRefusesBeforeItDecides) && s.destination == kReceive && s.loaded) {
        next.Up(Make(kRefuse));
        next.s.destination = kHasRefused;
      } else {
        next.DestinationGivesUp(/*connected=*/true, MoveState::kCancelling);
      }
      emit("the move is cancelled at the destination", kFault, next.s);
    }
    if (options.mutant == Mutant::kRefusesAndRuns && s.destination_runs && s.destination_link != 0 &&
        s.destination == kReceiveRest && s.connections[s.destination_link - 1].up_count < HandOverModel::kQueued) {
      Step next = step();
      --next.s.faults;
      // Before RUNNING was heard.
      Connection& c = next.DestinationLink();
      Step::Truncate(c.up_count, c.up, 0);
      next.Up(Make(kRefuse));
      emit("REFUSE is said though the guest runs", kFault, next.s);
    }
  }
  if (s.crashes > 0 && IsSourceAlive(s) && s.source != kSourceOver) {
    Step next = step();
    --next.s.crashes;
    next.s.source = kSourceGone;
    next.s.source_runs = 0;
    next.s.to_send = 0;
    next.s.force = 0;
    next.CloseSource();
    emit("the source's monitor is killed", kFault, next.s);
  }
  if (s.crashes > 0 && s.source == kSourceOver && s.source_runs) {
    Step next = step();
    --next.s.crashes;
    next.s.source = kSourceGone;
    next.s.source_runs = 0;
    emit("the source's monitor is killed, with its guest", kFault, next.s);
  }
  // vmm/control/handed_over.h: CheckNoGrant().
  if (s.source == kSourceGone && s.record == 0 && !s.booted_anew) {
    Step next = step();
    next.s.booted_anew = 1;
    emit("the machine is booted anew under its name at the source", kPerson, next.s);
  }
  if (s.crashes > 0 && s.destination_gone == 0 && s.destination != kDestinationOver) {
    Step next = step();
    --next.s.crashes;
    next.s.destination_gone = 1;
    next.s.destination = kDestinationGone;
    next.s.destination_runs = 0;
    next.CloseDestination();
    next.CloseDoor();
    if (next.s.old_link != 0) {
      Connection& old = next.s.connections[next.s.old_link - 1];
      old.destination_open = 0;
      Step::Tidy(old);
      next.s.old_link = 0;
    }
    emit("the destination's monitor is killed", kFault, next.s);
  }
  if (s.destination_gone == 1) {
    Step next = step();
    next.s.destination_gone = 2;
    emit("another `receive` listens at the destination's address", kPerson, next.s);
  }
}

}  // namespace ferrite::migration::hand_over
