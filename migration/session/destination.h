// The destination's side of a move (docs/move.md): receives one machine, and runs it only after GRANT.
#ifndef FERRITE_MIGRATION_SESSION_DESTINATION_H_
#define FERRITE_MIGRATION_SESSION_DESTINATION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/machine_port.h"
#include "migration/api/machine_spec.h"
#include "migration/api/move_id.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/channel/address_range.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/lobby.h"
#include "migration/channel/socket.h"
#include "migration/placing/fault_server.h"
#include "migration/placing/page_receiver.h"
#include "migration/placing/round_gate.h"
#include "migration/placing/userfault.h"
#include "migration/placing/wait_accounts.h"
#include "migration/protocol/messages.h"
#include "migration/session/greeter.h"

namespace ferrite::migration {

// One incoming move, made once and run once. Until a machine was accepted it waits, whoever came and left meanwhile.
//
// After Run() returned
//   OK          the guest runs here, all of its memory is here, and the source was told so;
//   an error    and state() is failed or cancelled: the guest never ran here;
//   an error    and state() is postcopy-paused: the guest runs here, but pages are missing (R4): whoever touches one
//               waits, until this object is destroyed. Run() returns so only after Leave(): until then it waits for
//               the source to come back.
//
// Threads: Run() on one; the rest from any.
class Destination {
 public:
  struct Options {
    absl::Duration silence = absl::Seconds(10);  // after which the source counts as gone
    // How long a connection has to say who it is, a source to say what machine it brings, and then for each step in
    // which this side waits for it. Until memory comes the source may also be silent for that long.
    absl::Duration patience = absl::Seconds(60);
    // How long to wait for a source whose connection was lost when nothing was missing but its word: GRANT before the
    // guest runs here (it then never will), or that it heard that all is here (then that is so).
    absl::Duration hold_for = absl::Seconds(30);
    // Whose connections are let in, as Lobby's; empty: everybody's.
    std::vector<AddressRange> from;
    // Descriptors that a machine and its move may need, which strangers do not get.
    size_t machine_descriptors = 0;
  };

  static absl::StatusOr<std::unique_ptr<Destination>> Create(DestinationFactory& factory, Options options);
  ~Destination();

  // Waits on `listener` for a source, and receives. Connections that are no move's are dropped and logged, and so are
  // sources that leave before their machine was accepted, or whose machine is refused: they hear why.
  absl::Status Run(Listener& listener);

  // Ends a move that was not granted; FAILED_PRECONDITION later.
  absl::Status Cancel();
  // From here on a source that is gone is not waited for, now or later. A move that goes well goes on: its pages are
  // waited for while they come, for 30 s at most.
  void Leave();

  MoveState state() const { return state_.get(); }
  // The guest was taken over here, and with `whole` all of its memory is here, too.
  bool HasGuest(bool whole) const {
    const TimedMutexLock lock(&mutex_);
    return run_ > absl::ZeroDuration() && (!whole || all_pages_);
  }
  // What only this side can measure.
  MoveReport report() const;

 private:
  Destination(DestinationFactory& factory, Options options, EventFd cancel);

  absl::Status RunPhases(Lobby& lobby);
  // Greets whoever comes until one brings a machine that is accepted: the source of this move.
  absl::Status AwaitMachine(Lobby& lobby);
  absl::Status GreetUntilAccepted(Greeter& greeter, Lobby& lobby);
  // Whether its machine is the one that comes. If not, nothing is left of it and of the connection.
  bool Accept(Greeter::Chosen chosen);
  // An error was told to the source.
  absl::Status Build(const MachineSpec& spec);
  absl::Status SendAccept();
  absl::Status CheckRegions(const MachineSpec& spec);
  absl::Status AcceptChannels(Lobby& lobby);
  absl::Status StartReceivers(bool live);
  absl::Status Prepare();
  absl::Status ReceiveUntilRunning();
  // One step of the source's, as it comes.
  absl::Status On(const Message& message);
  absl::Status OnRound(const message::Round& round);
  absl::Status OnDiscard(const message::Discard& discard);
  absl::Status OnPackage(const message::Package& package);
  absl::Status ApplyPackage(std::span<const uint8_t> blob);
  absl::Status OnGrant(const message::Grant& grant);
  absl::Status ReceiveTheRest();
  absl::Status AwaitAllPages();
  absl::Status SettleIn();
  // All is here: ends the page channels, whatever the source does, and the faults' threads.
  void EndChannels();
  absl::Status TellThatAllIsHere();
  absl::Status AwaitHeard();
  // Whether the source may come back for this move.
  bool MayComeBack() const;
  // Waits until the source is back, and goes on where the connection was lost (docs/move.md).
  absl::Status Recover(Lobby& lobby);
  // One look at the door: whether the source is back. An error ends the wait.
  absl::StatusOr<bool> LookForSource(Lobby& lobby, MonotonicTime hold_until);
  absl::Status Resume(std::unique_ptr<Stream> stream, Lobby& lobby);
  absl::Status SendMissing();
  // Over `urgent`, or without the source when it is empty.
  absl::Status ServeFaults(std::span<const std::unique_ptr<Stream>> urgent, bool ask_again);
  absl::Status GiveUp(const absl::Status& reason);
  // What the source said of a failure comes before what was noticed of it here.
  absl::Status WordsFor(const absl::Status& reason);
  // Of a guest that ran here: whether it still is.
  absl::string_view GuestWords() const;

  // Says that the guest does not run here, and never will.
  void SendRefuse(const absl::Status& reason);
  void ReceivePages(Stream& stream, bool live);
  // The control connection from here on; null: none.
  absl::Status SetPeer(std::unique_ptr<Stream> stream);
  void AdoptPeer(std::unique_ptr<ControlPeer> peer);
  // The connection is broken, or a thread failed: everything that waits ends with `reason`.
  void Break(const absl::Status& reason);
  void OnPage();
  void StopFaults();

  DestinationFactory& factory_;
  const Options options_;
  const EventFd cancel_;
  MoveStateMachine state_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> leaving_{false};
  std::atomic<bool> waiting_{false};  // for a source to come back

  DropLog drops_;
  MoveId id_{};
  uint16_t page_channels_ = 0;
  uint16_t urgent_channels_ = 0;
  bool postcopy_possible_ = false;
  std::atomic<bool> postcopy_{false};
  uint64_t features_ = 0;  // that both sides have
  uint64_t epoch_ = 0;     // of GRANT
  bool loaded_ = false;
  bool inhibited_ = false;
  bool settled_ = false;  // all is here, and faults are the kernel's again
  bool revoked_ = false;  // the source took the guest back

  // In the order in which they are needed: who uses something ends before it.
  std::unique_ptr<DestinationPort> port_;
  std::unique_ptr<Landscape> landscape_;
  std::unique_ptr<Userfault> userfault_;
  ReceiveFigures figures_;
  mutable TimedMutex mutex_;
  // Set by the thread of Run() under the lock; it, and the threads that it starts afterwards, read them without.
  std::unique_ptr<WaitAccounts> waits_;
  std::unique_ptr<RoundGate> gate_;
  std::vector<std::unique_ptr<Stream>> page_;
  std::vector<std::unique_ptr<Stream>> urgent_;
  absl::Duration load_ ABSL_GUARDED_BY(mutex_);
  absl::Duration run_ ABSL_GUARDED_BY(mutex_);
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  bool all_pages_ ABSL_GUARDED_BY(mutex_) = false;
  size_t ended_channels_ ABSL_GUARDED_BY(mutex_) = 0;  // whose pages have all come, after the switchover
  bool loading_ ABSL_GUARDED_BY(mutex_) = false;
  // As page_: set by the thread of Run(), with SetPeer().
  std::unique_ptr<ControlPeer> peer_;
  std::vector<Thread> receivers_;
  std::unique_ptr<FaultServer> faults_ ABSL_GUARDED_BY(mutex_);
  uint64_t fault_count_ ABSL_GUARDED_BY(mutex_) = 0;  // when faults_ is gone
  uint64_t minor_fault_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DESTINATION_H_
