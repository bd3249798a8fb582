// The hand-over of a guest as a model small enough that all orders of its events can be tried: from the moment at which
// the guest stands still and PACKAGE is on its way, or from the rounds before it, to the end of the move at both sides,
// over as many connections as the faults leave it. What the sides decide they decide by migration/session/decisions.h,
// as the sessions do; the order of their acts is that of departure/ and arrival/, whose functions the steps name.
//
// A connection is two queues in order: words may be late as long as there is one, and are lost only with it. A cut
// loses the end of either queue, as much of it as is not there yet. A side closes what it gave up, and the other one
// may find that out at any later time, also with a newer connection that waits at its door, or several, taken in any
// order.
#ifndef FERRITE_TESTS_MODEL_HAND_OVER_MODEL_H_
#define FERRITE_TESTS_MODEL_HAND_OVER_MODEL_H_

#include <array>
#include <cstdint>
#include <functional>

#include "migration/api/move_state.h"
#include "tests/model/explorer.h"

namespace ferrite::migration {

// A rule that is broken on purpose. kNone: the code as it is.
enum class Mutant : uint8_t {
  kNone,
  kGrantBeforeRecord,        // GRANT goes out, then it is written down
  kRecordForgottenOnLoss,    // a source that stands still takes its record away
  kResumeAfterGrant,         // a failure behind GRANT runs the guest at the source
  kErrorIsRefusal,           // ERROR and an end of connection count as REFUSE
  kTakenBackUnanswered,      // somebody listens and does not answer: taken back without force
  kTakenBackThoughGranted,   // STANDING(granted) does not matter
  kOldConnectionHeard,       // the destination answers a new connection before it let go of the old one
  kRunsWithoutGrant,         // a destination for which nobody comes back runs what it has
  kRunsAfterRevoked,         // a destination that answered REVOKE runs all the same
  kRefusesAndRuns,           // a destination that is cancelled while the guest runs says REFUSE
  kRefusesBeforeItDecides,   // REFUSE is said, and the state changes afterwards
  kShutWithoutPages,         // SHUT when the source has sent all, not when all is here
  kEndIsSuccess,             // the end of the connection where SHUT is due counts as SHUT
  kDoneAtRunning,            // the source is done when the guest runs there
  kSentCountsAsArrived,      // recovery does not ask what is missing
  kGivesUpWhenGrantMayCome,  // a destination that lost its source before GRANT does not wait
  kSaysGranted,              // STANDING(granted) of a destination that is not
  kForgetsMoveOnLoss,        // a destination whose guest runs does not wait for its source
  kSearchesForEver,          // a source that was copying looks for its destination without an end
  // Against liars and strangers only: with two sides that keep to the protocol nothing comes of them.
  kAnyEpochRecovers,        // RECOVER of any epoch
  kAnyRunning,              // RUNNING of any epoch
  kContradictionIsGranted,  // STANDING(not granted) of one that had said RUNNING is answered by GRANT
  kRevokedNotAwaited,       // REVOKE is said, and REVOKED not waited for at all
};
const char* MutantName(Mutant mutant);

class HandOverModel {
 public:
  struct Options {
    uint8_t pages = 0;         // that are missing behind the switchover; 0: pre-copy
    uint8_t faults = 2;        // cuts, silences that are taken for an end, disks that fail, cancels
    uint8_t crashes = 1;       // of either side
    uint8_t here = 1;          // times that a person types `recover --here`
    bool copying = false;      // the guest runs at the source, and is copied
    bool person_errs = false;  // says that a destination is gone which is not
    Mutant mutant = Mutant::kNone;
  };

  static constexpr int kConnections = 3;
  static constexpr int kQueued = 5;

  struct Connection {
    uint8_t source_open, at_door, destination_open, cut;
    uint8_t pages;  // on their way
    uint8_t down_count, up_count;
    std::array<uint8_t, kQueued> down, up;  // words to the destination, and from it
    bool operator==(const Connection&) const = default;
  };

  struct State {
    uint8_t source, destination;              // where their threads are
    uint8_t source_state, destination_state;  // MoveState
    uint8_t source_link, destination_link;    // 0: none, or the number of a connection from 1 on
    uint8_t source_runs, destination_runs, booted_anew;
    uint8_t may_run_there, ran_there, epoch, record, to_send, force;
    uint8_t loaded, granted_epoch, missing, settled;
    uint8_t destination_gone;  // for good: crashed. 2: somebody else listens there since
    uint8_t faults, crashes, here;
    uint8_t old_link;  // of kOldConnectionHeard
    std::array<Connection, kConnections> connections;
  };

  explicit HandOverModel(const Options& options) : options_(options) {}

  using Emit = std::function<void(const char* words, StepKind kind, const State& next)>;

  State Start() const;
  void Steps(const State& state, const Emit& emit) const;
  const char* Violation(const State& state) const;
  bool MustEnd(const State& state, bool by_person) const;
  bool Ended(const State& state) const;

 private:
  const Options options_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_MODEL_HAND_OVER_MODEL_H_
