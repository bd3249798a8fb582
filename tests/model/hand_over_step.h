// What the files of hand_over_model.h share: the words of the model, and its steps.
#ifndef FERRITE_TESTS_MODEL_HAND_OVER_STEP_H_
#define FERRITE_TESTS_MODEL_HAND_OVER_STEP_H_

#include <array>
#include <cstdint>
#include <optional>

#include "base/status.h"
#include "migration/api/move_state.h"
#include "tests/model/explorer.h"
#include "tests/model/hand_over_model.h"

namespace ferrite::migration::hand_over {

using State = HandOverModel::State;
using Connection = HandOverModel::Connection;
using enum StepKind;

// Where a thread waits, or what it does next.
enum Source : uint8_t {
  kCopy,
  kCopyLost,
  kCopyAwaitStanding,
  kAwaitLoaded,
  kRecord,
  kRecorded,
  kGrantedUnrecorded,  // kGrantBeforeRecord
  kAwaitRunning,
  kServe,
  kAwaitShut,
  kPaused,
  kAwaitStanding,
  kRecordAgain,
  kAwaitRunningAgain,
  kAwaitMissing,
  kHereAwaitStanding,
  kHereAwaitRevoked,
  kSourceOver,
  kSourceGone,
};
enum Destination : uint8_t {
  kReceive,
  kReceiveRest,
  kAwaitHeard,
  kLook,
  kAwaitRecover,
  kAwaitGrantOrRevoke,
  kHasRefused,  // kRefusesBeforeItDecides
  kDestinationOver,
  kDestinationGone,
};

enum Word : uint8_t {
  kPackage = 1,
  kLoaded,
  kGrant,
  kRunning,
  kRefuse,
  kError,
  kEnd,
  kShut,
  kHeard,
  kRecover,
  kStanding,
  kMissing,
  kRevoke,
  kRevoked,
  kLastRound,
};
constexpr uint8_t Make(Word word, uint8_t value = 0) { return static_cast<uint8_t>(word << 3 | value); }
constexpr Word WordOf(uint8_t byte) { return static_cast<Word>(byte >> 3); }
constexpr uint8_t ValueOf(uint8_t byte) { return byte & 7; }
constexpr uint8_t kMostEpochs = 7;

// One step: the state that it makes.
class Step {
 public:
  Step(const HandOverModel::Options& options, const State& before) : options_(options), s(before) {}

  const HandOverModel::Options& options_;
  State s;

  bool Is(Mutant mutant) const { return options_.mutant == mutant; }
  MoveState source_state() const { return static_cast<MoveState>(s.source_state); }
  MoveState destination_state() const { return static_cast<MoveState>(s.destination_state); }

  static void Change(uint8_t& state, MoveState to) {
    FERRITE_CHECK(IsAllowed(static_cast<MoveState>(state), to));
    state = static_cast<uint8_t>(to);
  }
  void ChangeSource(MoveState to) { Change(s.source_state, to); }
  void ChangeDestination(MoveState to) { Change(s.destination_state, to); }

  Connection& SourceLink() { return s.connections[s.source_link - 1]; }
  Connection& DestinationLink() { return s.connections[s.destination_link - 1]; }

  void Up(uint8_t word) {
    if (s.destination_link != 0) {
      Connection& c = DestinationLink();
      if (c.source_open && !c.cut) {
        FERRITE_CHECK(c.up_count < HandOverModel::kQueued);
        c.up[c.up_count++] = word;
      }
    }
  }
  void Down(uint8_t word) {
    if (s.source_link != 0) {
      Connection& c = SourceLink();
      if ((c.destination_open || c.at_door) && !c.cut) {
        FERRITE_CHECK(c.down_count < HandOverModel::kQueued);
        c.down[c.down_count++] = word;
      }
    }
  }
  static uint8_t Pop(uint8_t& count, std::array<uint8_t, HandOverModel::kQueued>& queue) {
    const uint8_t first = queue[0];
    --count;
    for (int i = 0; i < HandOverModel::kQueued - 1; ++i) {
      queue[i] = queue[i + 1];
    }
    queue[HandOverModel::kQueued - 1] = 0;
    return first;
  }
  static void Truncate(uint8_t& count, std::array<uint8_t, HandOverModel::kQueued>& queue, uint8_t to) {
    while (count > to) {
      queue[--count] = 0;
    }
  }
  static void Tidy(Connection& c) {
    if (!c.source_open) {
      Truncate(c.up_count, c.up, 0);
    }
    if (!c.destination_open && !c.at_door) {
      Truncate(c.down_count, c.down, 0);
      c.pages = 0;
    }
    if (!c.source_open && !c.destination_open && !c.at_door) {
      c = Connection{};
    }
  }
  void CloseSource() {
    if (s.source_link != 0) {
      Connection& c = SourceLink();
      c.source_open = 0;
      Tidy(c);
      s.source_link = 0;
    }
  }
  void CloseDestination() {
    if (s.destination_link != 0) {
      Connection& c = DestinationLink();
      c.destination_open = 0;
      Tidy(c);
      s.destination_link = 0;
    }
  }
  // Whoever comes, or waits, is closed: nobody of this move listens any more.
  void CloseDoor() {
    for (Connection& c : s.connections) {
      c.at_door = 0;
      Tidy(c);
    }
  }

  // The source's: hand_over_source.cc.

  // departure/giving_up.cc: GiveUp().
  void SourceFails();
  // MachineSource::Resume(): the record goes first.
  void RunAtSource();
  // departure/handover.cc: SendGrant() failed.
  void GrantFails(bool refused);
  void SourceCompletes();
  void StartServing();
  // departure/recovery.cc: TryToTakeBack(). `answer`: STANDING's, if it came.
  void TakeBack(std::optional<bool> answer, bool reached);
  void IsBack();
  void SourceHears(uint8_t byte);
  // The connection ended, or was silent for too long.
  void SourceHearsNothingMore();
  // Opens a connection and says RECOVER. False: there is no room for one in the model now.
  bool Connect(uint8_t epoch);
  // departure/resuming.cc: the connection is lost while the guest is copied.
  void LosesWhileCopying(bool said_why);

  // The destination's: hand_over_destination.cc.

  // arrival/giving_up.cc: GiveUp() of a side that does not have the guest.
  void DestinationGivesUp(bool connected, MoveState way);
  // destination.cc: Receive(), of a connection that ended.
  void DestinationLosesSource(bool lost, bool said_why);
  // arrival/recovery.cc: LookForSource() lets go of the old connection.
  void Look();
  // arrival/handover.cc: TakeOver().
  void TakeOver(uint8_t epoch);
  // The same where a disk cannot be had.
  void CannotTakeOver();
  // arrival/settling.cc: ReceiveTheRest().
  void ReceiveTheRest();
  void DestinationCompletes();
  void DestinationHears(uint8_t byte);
};

// Whether somebody takes connections at the destination's address.
inline bool Listens(const State& s) {
  return s.destination_gone == 2 || (s.destination != kDestinationOver && s.destination != kDestinationGone);
}
inline bool IsSourceAlive(const State& s) { return s.source != kSourceGone; }

// All steps that can follow `state`: of the source's own, of the destination's, and of what befalls them.
void SourceSteps(const HandOverModel::Options& options, const State& state, const HandOverModel::Emit& emit);
void DestinationSteps(const HandOverModel::Options& options, const State& state, const HandOverModel::Emit& emit);
void FaultSteps(const HandOverModel::Options& options, const State& state, const HandOverModel::Emit& emit);

}  // namespace ferrite::migration::hand_over

#endif  // FERRITE_TESTS_MODEL_HAND_OVER_STEP_H_
