#include "tests/model/hand_over_model.h"

#include <cstring>
#include <optional>

#include "base/status.h"
#include "migration/session/decisions.h"

namespace ferrite::migration {
namespace {

using State = HandOverModel::State;
using Connection = HandOverModel::Connection;
using enum StepKind;

// Where a thread waits, or what it does next.
enum Source : uint8_t {
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

  // departure/giving_up.cc: GiveUp().
  void SourceFails() {
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
  // MachineSource::Resume(): the record goes first.
  void RunAtSource() {
    s.record = 0;
    s.source_runs = 1;
    s.may_run_there = 0;
    s.source = kSourceOver;
    s.to_send = 0;
    s.force = 0;
  }
  // departure/handover.cc: SendGrant() failed.
  void GrantFails(bool refused) {
    s.may_run_there = MayRunAfterFailedGrant(refused || Is(Mutant::kErrorIsRefusal)) ? 1 : 0;
    SourceFails();
  }
  void SourceCompletes() {
    ChangeSource(MoveState::kCompleted);
    s.source = kSourceOver;
    s.record = 0;
    s.to_send = 0;
    CloseSource();
  }
  void StartServing() {
    s.source = kServe;
    if (Is(Mutant::kDoneAtRunning)) {
      SourceCompletes();
    }
  }
  // departure/recovery.cc: TryToTakeBack(). `answer`: STANDING's, if it came.
  void TakeBack(std::optional<bool> answer, bool reached) {
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
  void IsBack() {
    s.may_run_there = 0;
    ChangeSource(MoveState::kFailing);
    RunAtSource();
    CloseSource();
    ChangeSource(MoveState::kFailed);
  }

  // arrival/giving_up.cc: GiveUp() of a side that does not have the guest.
  void DestinationGivesUp(bool connected, MoveState way) {
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
  // destination.cc: Receive(), of a connection that ended.
  void DestinationLosesSource(bool lost, bool said_why) {
    const bool comes_back =
        DecideMayComeBack(destination_state(), {.can_recover = true,
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
  // arrival/recovery.cc: LookForSource() lets go of the old connection.
  void Look() {
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
  // arrival/handover.cc: TakeOver().
  void TakeOver(uint8_t epoch) {
    s.granted_epoch = epoch;
    if (DecideOnGrant(/*same_move=*/true, s.loaded != 0) != OnGrant::kRun) {
      DestinationLosesSource(/*lost=*/false, /*said_why=*/false);
      return;
    }
    ChangeDestination(MoveState::kPostcopyActive);
    s.destination_runs = 1;
    Up(Make(kRunning, epoch));
  }
  // The same where a disk cannot be had.
  void CannotTakeOver() {
    ChangeDestination(MoveState::kPostcopyActive);
    DestinationGivesUp(/*connected=*/true, MoveState::kFailing);
  }
  // arrival/settling.cc: ReceiveTheRest().
  void ReceiveTheRest() {
    if (s.missing != 0 && !s.settled) {
      s.destination = kReceiveRest;
      return;
    }
    s.settled = 1;
    Up(Make(kShut));
    s.destination = kAwaitHeard;
  }
  void DestinationCompletes() {
    ChangeDestination(MoveState::kCompleted);
    s.destination = kDestinationOver;
    CloseDestination();
    CloseDoor();
  }

  void SourceHears(uint8_t byte);
  void SourceHearsNothingMore();
  void DestinationHears(uint8_t byte);
};

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

// The connection ended, or was silent for too long.
void Step::SourceHearsNothingMore() {
  switch (s.source) {
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

void Step::DestinationHears(uint8_t byte) {
  const Word word = WordOf(byte);
  const uint8_t value = ValueOf(byte);
  switch (s.destination) {
    case kReceive:
      if (word == kPackage) {
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
      if (standing == OnRecover::kNotGranted) {
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

bool Waits(uint8_t source) {
  switch (source) {
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

bool Listens(const State& s) {
  return s.destination_gone == 2 || (s.destination != kDestinationOver && s.destination != kDestinationGone);
}

bool IsSourceAlive(const State& s) { return s.source != kSourceGone; }

// The source opens a connection and says RECOVER. 0: there is no room for one in the model now.
bool Connect(Step& step) {
  for (int i = 0; i < HandOverModel::kConnections; ++i) {
    if (step.s.connections[i] == Connection{}) {
      step.s.source_link = static_cast<uint8_t>(i + 1);
      Connection& c = step.SourceLink();
      c.source_open = 1;
      c.at_door = step.s.destination_gone == 2 ? 0 : 1;  // somebody else closes at once
      step.Down(Make(kRecover, step.s.epoch));
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
      if (MaySearch(next.source_state(), /*can_recover=*/true) && Listens(s) && Connect(next)) {
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
          if (Connect(asks)) {
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
    bool expected = s.source == kPaused;
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
                                             "?", "HEARD",   "RECOVER", "?",     "?", "REVOKE", "?"};
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
    if (s.source == kAwaitLoaded) {
      Step next = step();
      --next.s.faults;
      next.ChangeSource(MoveState::kCancelling);
      next.RunAtSource();
      next.Down(Make(kError));
      next.CloseSource();
      next.ChangeSource(MoveState::kCancelled);
      emit("the move is cancelled at the source", kFault, next.s);
    }
    if (static_cast<MoveState>(s.destination_state) == MoveState::kDevice && s.destination_link != 0) {
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

bool IsSourceFinal(const State& s) { return IsFinal(static_cast<MoveState>(s.source_state)); }

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
      "AnyEpochRecovers",
      "AnyRunning",
      "ContradictionIsGranted",
      "RevokedNotAwaited",
  };
  return kNames[static_cast<int>(mutant)];
}

State HandOverModel::Start() const {
  State s;
  std::memset(&s, 0, sizeof(s));
  s.source = kAwaitLoaded;
  s.destination = kReceive;
  s.source_state = s.destination_state = static_cast<uint8_t>(MoveState::kDevice);
  s.source_link = s.destination_link = 1;
  s.epoch = 1;
  s.missing = options_.pages;
  s.faults = options_.faults;
  s.crashes = options_.crashes;
  s.here = options_.here;
  Connection& c = s.connections[0];
  c.source_open = c.destination_open = 1;
  c.down[c.down_count++] = Make(kPackage);
  return s;
}

void HandOverModel::Steps(const State& state, const Emit& emit) const {
  SourceSteps(options_, state, emit);
  DestinationSteps(options_, state, emit);
  FaultSteps(options_, state, emit);
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
    return IsSourceAlive(s) && s.here > 0;
  }
  const MoveState there = static_cast<MoveState>(s.destination_state);
  const bool given_up = there == MoveState::kFailed || there == MoveState::kCancelled;
  return IsSourceAlive(s) && s.destination_gone == 0 && !given_up;
}

bool HandOverModel::Ended(const State& s) const {
  const bool here = s.source_runs && IsSourceFinal(s);
  const bool there = s.destination_runs && static_cast<MoveState>(s.destination_state) == MoveState::kCompleted;
  return here != there || (IsSourceFinal(s) && s.destination_gone != 0);
}

}  // namespace ferrite::migration
