#include "tests/model/hand_over_model.h"

#include <cstring>

#include "migration/api/move_state.h"
#include "tests/model/hand_over_step.h"

namespace ferrite::migration {
namespace {

bool IsSourceFinal(const HandOverModel::State& s) { return IsFinal(static_cast<MoveState>(s.source_state)); }

}  // namespace

const char* MutantName(Mutant mutant) {
  static constexpr const char* kNames[] = {
      "None",
      "GrantBeforeRecord",
      "RecordForgottenOnLoss",
      "ResumeAfterGrant",
      "ErrorIsRefusal",
      "TakenBackUnanswered",
      "TakenBackThoughGranted",
      "OldConnectionHeard",
      "RunsWithoutGrant",
      "RunsAfterRevoked",
      "RefusesAndRuns",
      "RefusesBeforeItDecides",
      "ShutWithoutPages",
      "EndIsSuccess",
      "DoneAtRunning",
      "SentCountsAsArrived",
      "GivesUpWhenGrantMayCome",
      "SaysGranted",
      "ForgetsMoveOnLoss",
      "SearchesForEver",
      "AnyEpochRecovers",
      "AnyRunning",
      "ContradictionIsGranted",
      "RevokedNotAwaited",
  };
  return kNames[static_cast<int>(mutant)];
}

HandOverModel::State HandOverModel::Start() const {
  State s;
  std::memset(&s, 0, sizeof(s));
  s.source = options_.copying ? hand_over::kCopy : hand_over::kAwaitLoaded;
  s.source_runs = options_.copying ? 1 : 0;
  s.destination = hand_over::kReceive;
  s.source_state = s.destination_state =
      static_cast<uint8_t>(options_.copying ? MoveState::kActive : MoveState::kDevice);
  s.source_link = s.destination_link = 1;
  s.epoch = 1;
  s.missing = options_.pages;
  s.faults = options_.faults;
  s.crashes = options_.crashes;
  s.here = options_.here;
  Connection& c = s.connections[0];
  c.source_open = c.destination_open = 1;
  if (!options_.copying) {
    c.down[c.down_count++] = hand_over::Make(hand_over::kPackage);
  }
  return s;
}

void HandOverModel::Steps(const State& state, const Emit& emit) const {
  hand_over::SourceSteps(options_, state, emit);
  hand_over::DestinationSteps(options_, state, emit);
  hand_over::FaultSteps(options_, state, emit);
}

const char* HandOverModel::Violation(const State& s) const {
  if (s.source_runs + s.booted_anew + s.destination_runs > 1) {
    return "the guest runs twice (R2)";
  }
  if (static_cast<MoveState>(s.source_state) == MoveState::kCompleted && (!s.settled || s.missing != 0)) {
    return "the source is done, and the destination does not have everything (R10)";
  }
  if ((static_cast<MoveState>(s.destination_state) == MoveState::kCompleted || s.settled) && s.missing != 0) {
    return "the destination is done without every page (R4)";
  }
  return nullptr;
}

bool HandOverModel::MustEnd(const State& s, bool by_person) const {
  if (by_person) {
    // None for good only if the source is gone, or the person has no `--here` left in the model.
    return hand_over::IsSourceAlive(s) && s.here > 0;
  }
  const MoveState there = static_cast<MoveState>(s.destination_state);
  const bool given_up = there == MoveState::kFailed || there == MoveState::kCancelled;
  return hand_over::IsSourceAlive(s) && s.destination_gone == 0 && !given_up;
}

bool HandOverModel::Ended(const State& s) const {
  const bool here = s.source_runs && IsSourceFinal(s);
  const bool there = s.destination_runs && static_cast<MoveState>(s.destination_state) == MoveState::kCompleted;
  return here != there || (IsSourceFinal(s) && s.destination_gone != 0);
}

}  // namespace ferrite::migration
