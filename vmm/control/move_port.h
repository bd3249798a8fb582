// What the control server needs to move its machine.
#ifndef FERRITE_VMM_CONTROL_MOVE_PORT_H_
#define FERRITE_VMM_CONTROL_MOVE_PORT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/tls_options.h"

namespace ferrite {

// Where the guest is, as far as its source knows.
enum class GuestPlace {
  kHereRunning,
  kHerePaused,
  kHereStopped,  // it ended by itself, or was ended
  kThere,        // it runs at the destination, which has said so (R10)
  kTherePaused,  // it is there, paused as it was here
  kHandedOver,   // GRANT went out and its answer did not come: it may run at the destination, and does not here
};

// In words, as "web1 runs on here"; `who` is the guest, `where` its destination.
std::string DescribePlace(GuestPlace place, absl::string_view who, absl::string_view where);

// One move of a machine away from here.
struct MoveStatus {
  uint64_t number = 0;  // of this monitor's moves, from 1; 0: there was none
  std::string where;
  bool over = false;
  migration::MoveProgress progress;
  // When it is over.
  absl::Status result;
  migration::MoveReport report;
  GuestPlace guest = GuestPlace::kHereRunning;
};

// Operations that a move has a say in. A target for the balloon goes with the machine until its state is saved, and is
// lost from then on until the guest runs again, here or there.
enum class Operation { kPause, kResume, kReset, kStop, kSetBalloon, kMirror };

// The words after "cannot": "set the balloon".
absl::string_view OperationName(Operation operation);

// Threads: any. No method but TakeBack() waits for the move.
class MovePort {
 public:
  virtual ~MovePort() = default;

  // FAILED_PRECONDITION when a move is on, or the machine is not here any more. `tls` is read now, with its files; one
  // that says nothing: the move goes in plain.
  virtual absl::Status Start(const std::string& where, const migration::MoveOptions& options,
                             const migration::TlsOptions& tls) = 0;
  // The last move's.
  virtual MoveStatus status() const = 0;
  // The move by which the machine came here, as far as it was measured here; number 0 when it did not.
  virtual MoveStatus arrival() const = 0;
  // These return when the move has taken note. FAILED_PRECONDITION when there is none, or it is too late.
  virtual absl::Status Cancel() = 0;
  virtual absl::Status StartPostcopy() = 0;
  // Both are for a move whose guest was handed over and whose connection is lost. Recover() looks for the destination
  // again, at `where` or, when that is empty, where it was, by `tls` or, when that says nothing, by what the move began
  // by; it is Start() for the rest of the move, under the same number. TakeBack() makes the guest run here again, as it
  // was when it was handed over, and waits until it does. FAILED_PRECONDITION when there is no such move, or when the
  // guest is known to be the destination's.
  virtual absl::Status Recover(const std::string& where, const migration::TlsOptions& tls) = 0;
  // `force`: also when somebody listens there who does not answer.
  virtual absl::Status TakeBack(bool force) = 0;
  // Whether `operation` may be done to the machine now; FAILED_PRECONDITION that says why not. `force`: memory that a
  // destination may still need may go.
  virtual absl::Status Allows(Operation operation, bool force) const = 0;
  // The machine is ended by force: a guest that went over is not waited for any more, what it misses it never gets.
  virtual void GiveUp() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MOVE_PORT_H_
