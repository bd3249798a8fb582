// The move of one machine to here, on a thread of its own: the twin of Mover.
#ifndef FERRITE_VMM_MOVE_ARRIVALS_H_
#define FERRITE_VMM_MOVE_ARRIVALS_H_

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/destination_machine.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/destination.h"
#include "vmm/control/move_port.h"

namespace ferrite {

// Clients ask here about an arrival, which may come later than this object and go before it. Threads: any.
class ArrivalView {
 public:
  // Number 0 while there is no arrival.
  MoveStatus status() const;
  // As MovePort::Allows(): the end always, the balloon's target from when the guest runs here, the rest when all of
  // its memory is here. What would wait for memory, or be overwritten with the state that comes, is refused: nothing is
  // carried out when nobody waits for it any more.
  absl::Status Allows(Operation operation) const;

 private:
  friend class Incoming;
  void Show(const migration::Destination* session);

  mutable absl::Mutex mutex_;
  const migration::Destination* session_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// An arrival, from when it is made. Threads: the one that made it.
class Incoming {
 public:
  // Receives on the thread "receive" what comes to `acceptor`, into what `builder` makes, which outlives this object.
  // `view` shows it.
  static absl::StatusOr<std::unique_ptr<Incoming>> Start(migration::MachineBuilder& builder,
                                                         const migration::Destination::Options& options,
                                                         std::unique_ptr<migration::ChannelAcceptor> acceptor,
                                                         std::shared_ptr<ArrivalView> view);
  // Cancels a move that can be cancelled, looks for no source that was lost, and waits for the end of the thread.
  ~Incoming();

  // Returns when the move is over, or a descriptor that asks for the end is readable: whether it is over.
  bool WaitForArrival(int end, int other_end);

  // A move that is asked to end is one of these.
  enum class Ending {
    kCancelled,  // the guest never runs here, and the move is over in an instant
    kTakenOver,  // the guest is here. A source that is gone is not waited for, now or later; else the move goes on
  };
  Ending End();
  bool IsOverWithin(absl::Duration limit) { return over_.WaitFor(limit); }

  // The result of the move, and what follows from it; these wait until it is over. The thread may be about to end
  // still, and waits in vain for that as long as a device of the guest waits for a page: the kernel has it take the
  // lock of the io_uring that it made, which is held meanwhile.
  const absl::Status& result();
  // The guest was handed over to here for good. With a result that is not OK it misses memory: who touches that waits
  // as long as this object lives.
  bool RunsHere();
  // When the guest has arrived: Destination::Compact(). On any one thread.
  void Compact(absl::FunctionRef<bool()> stop) { session_->Compact(stop); }
  // For MovePort::arrival().
  MoveStatus Account();

  // The guest was granted to here, and is nobody else's: also while it is still being run, which may wait for a page.
  bool HasGuest() const;
  // Waits for the end of the thread, and listens no more. What a guest needs that misses memory stays.
  void Finish();

 private:
  Incoming(EventFd signal, std::unique_ptr<migration::Destination> session,
           std::unique_ptr<migration::ChannelAcceptor> acceptor, std::shared_ptr<ArrivalView> view);
  void Run();

  const EventFd signal_;  // when it is over
  const std::unique_ptr<migration::Destination> session_;
  std::unique_ptr<migration::ChannelAcceptor> acceptor_;
  const std::shared_ptr<ArrivalView> view_;
  absl::Status result_;  // written before over_
  TimedNotification over_;
  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_ARRIVALS_H_
