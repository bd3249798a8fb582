// The control server of one machine: proto/control.capnp on a unix socket.
#ifndef FERRITE_VMM_CONTROL_SERVER_H_
#define FERRITE_VMM_CONTROL_SERVER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "vmm/console/console_hub.h"
#include "vmm/control/mirror_port.h"
#include "vmm/control/move_port.h"
#include "vmm/machine/balloon_port.h"
#include "vmm/machine/machine.h"

namespace ferrite {

// The machine that is served, and what belongs to it. All outlive the server.
struct ControlTarget {
  std::string name;
  Machine* machine = nullptr;      // null: it has not arrived yet
  ConsoleHub* console = nullptr;   // null: no console to attach to
  BalloonPort* balloon = nullptr;  // null: the machine has none
  MovePort* mover = nullptr;       // null: it cannot be moved
  MirrorPort* mirrors = nullptr;   // null: its disks cannot be mirrored
  std::function<void()> give_up;   // what `stop` does, too, while the machine has not arrived
  // Of a machine that is still arriving; may be empty: how far it is, and as MovePort::Allows().
  std::function<MoveStatus()> arrival;
  std::function<absl::Status(Operation operation)> arrival_allows;
  std::function<void()> idle;  // on the control thread, when the last client has gone; may be empty
  // How long a call waits for what it asks of a mirror: a little less than a client does (30 s). An end that comes with
  // a standstill has no such limit: it is known how it ended when the call returns.
  absl::Duration mirror_patience = absl::Seconds(25);
};

// Answers clients of the same user, or root, on a thread of its own ("control"); what blocks in the machine (pause,
// resume, reset, stop) runs in turn on another ("control-work"), so that nobody waits for it but who asked.
//
// A client can cost only its own connection: one that sends rubbish, or more than kMaxOpenCalls calls without taking
// the answers, or none within 10 s, is dropped, and its requests are not read while it does not read its answers. A
// watcher that is slow misses events. When kMaxClients are connected, a new one takes the place of the one that has
// been idle (no call in flight, no subscription) for the longest time.
//
// Calls that wait are few: for the machine kMaxOperations of one client and kMaxAllOperations in all, for the balloon
// kMaxBalloonWaits and kMaxAllBalloonWaits, none for longer than kMaxBalloonWait, for mirrors kMaxAllMirrorWaits,
// kMaxMirrorEnds of them for ends, which may take long; what is beyond is refused at once.
// Calls end with their connection, or when the client gives them up: what has not begun by then is not done. `stop`
// waits for the operation that runs and for no other.
class ControlServer {
 public:
  static constexpr size_t kMaxClients = 128;
  static constexpr size_t kMaxWatchers = 64;
  static constexpr size_t kMaxSubscriptions = 4;  // of one client
  static constexpr size_t kMaxOpenCalls = 64;
  static constexpr size_t kMaxMessageBytes = 32 << 10;
  static constexpr size_t kMaxOperations = 8;
  static constexpr size_t kMaxAllOperations = 32;
  static constexpr size_t kMaxStops = 8;
  static constexpr size_t kMaxBalloonWaits = 4;
  static constexpr size_t kMaxAllBalloonWaits = 16;
  static constexpr size_t kMaxAllMirrorWaits = 6;
  static constexpr size_t kMaxMirrorEnds = 4;  // of these: a pause or a cancel finds room
  // Whoever is at something for long is among these, and one more whose operation runs: a new client always finds one
  // whose place it takes.
  static_assert(kMaxWatchers + kMaxAllOperations + 1 + kMaxStops + kMaxAllBalloonWaits + kMaxAllMirrorWaits <
                kMaxClients);
  static constexpr absl::Duration kMaxBalloonWait = absl::Hours(24);

  // `listener` is a listening unix socket, non-blocking.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Create(Fd listener, ControlTarget target);
  // As BeginEnd(); then waits for the operation that runs, sends the answers and the events that are due, drops the
  // clients. No client makes this wait but a watcher that does not take its last event, for 5 s at the most.
  virtual ~ControlServer() = default;

  // From when it returned no operation begins any more but a `stop` that waits: the others, and new ones, are
  // UNAVAILABLE. Any thread; never blocks.
  virtual void BeginEnd() = 0;

  // Tells the watchers. Any thread; never blocks.
  virtual void Publish(const MachineEvent& event) = 0;
  virtual void Publish(const MoveStatus& move) = 0;
  virtual void Publish(const MirrorStatus& mirror) = 0;

  // From soon after it returned the server serves `target`, in place of one without a machine.
  virtual void SetTarget(ControlTarget target) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_SERVER_H_
