// What the control server does for its clients: the methods of proto/control.capnp.
#ifndef FERRITE_VMM_CONTROL_CONTROL_SERVICE_H_
#define FERRITE_VMM_CONTROL_CONTROL_SERVICE_H_

#include <kj/timer.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/monotonic.h"
#include "migration/api/tls_options.h"
#include "proto/control.capnp.h"
#include "vmm/control/balloon_waits.h"
#include "vmm/control/client_activity.h"
#include "vmm/control/server.h"
#include "vmm/control/watcher.h"
#include "vmm/control/work_queue.h"

namespace ferrite {

// What all clients share. On the thread of the kj event loop only, as all of this.
struct ControlShared {
  void Deliver(const TimedEvent& event);
  // `count` events before the next one were lost.
  void AddMissed(uint64_t count);
  // When the watchers have taken all that was delivered, or are gone.
  kj::Promise<void> AllTaken();
  struct HostMemory {
    uint64_t resident_bytes = 0;
    uint64_t huge_bytes = 0;
  };
  // What the guest's RAM uses of the host's. Where the kernel takes long to find out, as for private memory, which it
  // goes through page by page, what it said last serves for a while, so that it is not most of what this thread does.
  HostMemory MeasureMemory();

  const ControlTarget& target;  // changes when the machine has arrived
  WorkQueue& work;
  kj::Timer& timer;
  const MonotonicTime started = MonotonicTime::Now();
  std::list<Watcher*> watchers = {};  // each removes itself
  BalloonWaits balloon_waits{target, timer};
  size_t mirror_waits = 0;  // calls that wait for what they asked of a mirror
  size_t mirror_ends = 0;   // of these, for MirrorWait::kEnd
  HostMemory host_memory;
  MonotonicTime host_memory_until = MonotonicTime::InfinitePast();
};

// One for a client.
class ControlService final : public control::Control::Server {
 public:
  ControlService(ControlShared& shared, std::shared_ptr<ClientActivity> activity);
  ~ControlService() noexcept(false);

  DispatchCallResult dispatchCall(uint64_t interface_id, uint16_t method_id,
                                  capnp::CallContext<capnp::AnyPointer, capnp::AnyPointer> context) override;

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
  kj::Promise<void> startMoveOverTls(StartMoveOverTlsContext context) override;
  kj::Promise<void> recoverMoveOverTls(RecoverMoveOverTlsContext context) override;
  kj::Promise<void> startMirror(StartMirrorContext context) override;
  kj::Promise<void> mirrorStatus(MirrorStatusContext context) override;
  kj::Promise<void> completeMirror(CompleteMirrorContext context) override;
  kj::Promise<void> cancelMirror(CancelMirrorContext context) override;
  kj::Promise<void> pauseMirror(PauseMirrorContext context) override;
  kj::Promise<void> resumeMirror(ResumeMirrorContext context) override;
  kj::Promise<void> setMirror(SetMirrorContext context) override;

 private:
  // Runs `work` on the thread for what blocks and answers with its error. The call ends with its connection: work that
  // has not begun by then is not done.
  template <typename Context>
  kj::Promise<void> RunInTurn(Context context, WorkQueue::Turn turn, kj::Function<absl::Status()> work);
  // The same with `work`, which is `operation`, unless a move does not allow that.
  template <typename Context>
  kj::Promise<void> RunOnMachine(Context context, WorkQueue::Turn turn, Operation operation,
                                 absl::Status (*work)(Machine&), bool force = false);
  // Whether a move away from here, or to here, allows `operation` now.
  absl::Status Allows(Operation operation) const;
  // Over TLS when `tls` says so.
  template <typename Context>
  kj::Promise<void> StartMove(Context context, migration::TlsOptions tls);
  template <typename Context>
  kj::Promise<void> RecoverMove(Context context, migration::TlsOptions tls);
  // `port`, which is one of target_'s; null with the reason why it is not there.
  template <typename Port>
  Port* PortOr(Port* port, control::Error::Builder error) const;
  // For what a call about a mirror waits.
  enum class MirrorWait {
    kSoon,  // for ControlTarget::mirror_patience at the most
    kEnd,   // an end with a standstill, however long it takes
  };
  // Whether one more call may wait for a mirror; else `error` says why not.
  bool MayAskMirror(MirrorWait wait, control::Error::Builder error) const;
  // It waits as long as this lives.
  kj::Own<void> CountMirrorWait(MirrorWait wait);
  // Asks the mirrors for something and answers when it is done: beside what waits for its turn, which goes on.
  template <typename Context>
  kj::Promise<void> AskMirror(Context context, MirrorWait wait, kj::Function<void(MirrorPort&, MirrorPort::Done)> ask);
  absl::Status StartBalloon(uint64_t target_bytes);
  // Whether one more call may, of all clients' and of this one's.
  absl::Status MayWaitForBalloon() const;
  // As BalloonWaits::Until(); RESOURCE_EXHAUSTED when it may not wait.
  kj::Promise<absl::Status> WaitForBalloon(BalloonWaits::Look look);
  kj::Promise<absl::Status> BalloonReaches(uint64_t target_bytes, absl::Duration limit);

  ControlShared& shared_;
  const ControlTarget& target_;  // of shared_
  kj::Timer& timer_;
  const std::shared_ptr<ClientActivity> activity_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_CONTROL_SERVICE_H_
