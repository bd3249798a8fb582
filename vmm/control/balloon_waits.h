// Calls that wait for the guest's balloon.
#ifndef FERRITE_VMM_CONTROL_BALLOON_WAITS_H_
#define FERRITE_VMM_CONTROL_BALLOON_WAITS_H_

#include <kj/async.h>
#include <kj/function.h>
#include <kj/timer.h>

#include <list>

#include "absl/status/status.h"
#include "vmm/control/server.h"
#include "vmm/machine/balloon_port.h"

namespace ferrite {

// The guest's driver moves in its own time, and its steps are no events of ours: so somebody has to look. That is one
// timer for all calls, which asks the balloon once, however many wait; each of them costs a comparison.
//
// On the thread of the kj event loop only.
class BalloonWaits {
 public:
  // Whether the wait is over, and how; nothing: not yet.
  using Look = kj::Function<kj::Maybe<absl::Status>(const BalloonFigures&)>;

  // Both outlive this; the target has a balloon as long as somebody waits.
  BalloonWaits(const ControlTarget& target, kj::Timer& timer) : target_(target), timer_(timer) {}

  // RESOURCE_EXHAUSTED when ControlServer::kMaxAllBalloonWaits wait.
  absl::Status MayWait() const;
  // What `look` returns at last; it is asked at once, and then again and again. After MayWait(). Dropping the promise
  // ends the wait.
  kj::Promise<absl::Status> Until(Look look);

 private:
  class Wait;

  kj::Promise<void> Tick();
  void LookAll();

  const ControlTarget& target_;
  kj::Timer& timer_;
  std::list<Wait*> waits_;  // each removes itself
  bool ticking_ = false;
  kj::Promise<void> tick_ = nullptr;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_BALLOON_WAITS_H_
