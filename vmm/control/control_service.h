// What the control server does for its clients: the methods of proto/control.capnp.
#ifndef FERRITE_VMM_CONTROL_CONTROL_SERVICE_H_
#define FERRITE_VMM_CONTROL_CONTROL_SERVICE_H_

#include <kj/timer.h>

#include <cstdint>
#include <list>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "proto/control.capnp.h"
#include "vmm/control/server.h"
#include "vmm/control/work_queue.h"

namespace ferrite {

// An event with the time at which it was published.
struct TimedEvent {
  MachineEvent event;
  std::optional<MoveStatus> move;
  int64_t unix_ms = 0;
};

class Watcher;

// One for all clients. On the thread of the kj event loop only.
class ControlService final : public control::Control::Server {
 public:
  ControlService(const ControlTarget& target, WorkQueue& work, kj::Timer& timer);
  ~ControlService() noexcept(false);

  void SetTarget(ControlTarget target) { target_ = std::move(target); }
  void Deliver(const TimedEvent& event);
  // `count` events before the next one were lost.
  void AddMissed(uint64_t count);
  // When the watchers have taken all that was delivered, or are gone.
  kj::Promise<void> AllTaken();

 protected:
  kj::Promise<void> describe(DescribeContext context) override;
  kj::Promise<void> pause(PauseContext context) override;
  kj::Promise<void> resume(ResumeContext context) override;
  kj::Promise<void> reset(ResetContext context) override;
  kj::Promise<void> stop(StopContext context) override;
  kj::Promise<void> balloon(BalloonContext context) override;
  kj::Promise<void> setBalloon(SetBalloonContext context) override;
  kj::Promise<void> attachConsole(AttachConsoleContext context) override;
  kj::Promise<void> watch(WatchContext context) override;
  kj::Promise<void> startMove(StartMoveContext context) override;
  kj::Promise<void> moveStatus(MoveStatusContext context) override;
  kj::Promise<void> cancelMove(CancelMoveContext context) override;
  kj::Promise<void> startPostcopy(StartPostcopyContext context) override;
  kj::Promise<void> recoverMove(RecoverMoveContext context) override;
  kj::Promise<void> takeBack(TakeBackContext context) override;

 private:
  // Runs `operation` in its turn, unless a move does not allow what is called `name`.
  template <typename Context>
  kj::Promise<void> RunOnMachine(Context context, const char* name, absl::Status (*operation)(Machine&),
                                 bool force = false);
  // Null with the reason why there is nothing to move.
  MovePort* MoverOr(control::Error::Builder error) const;
  absl::Status StartBalloon(uint64_t target_bytes);
  kj::Promise<void> StatisticsSince(absl::Time time, absl::Time deadline);
  kj::Promise<absl::Status> BalloonReaches(uint64_t target_bytes, absl::Time deadline);

  ControlTarget target_;
  WorkQueue& work_;
  kj::Timer& timer_;
  const absl::Time started_;
  std::list<Watcher*> watchers_;  // each removes itself
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_CONTROL_SERVICE_H_
