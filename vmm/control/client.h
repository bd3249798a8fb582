// A client of one machine's control socket, for the command line and tests.
#ifndef FERRITE_VMM_CONTROL_CLIENT_H_
#define FERRITE_VMM_CONTROL_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "migration/api/move_options.h"
#include "vmm/control/machine_description.h"
#include "vmm/control/mirror_port.h"
#include "vmm/control/move_port.h"
#include "vmm/control/watched_event.h"
#include "vmm/machine/balloon_port.h"

namespace ferrite {

// Calls block, for at most the timeout: DEADLINE_EXCEEDED. UNAVAILABLE when the machine has ended or dropped the
// connection, and which of them; else the machine's own error.
//
// What answers need not be a monitor: INTERNAL when it sends what none sends. It can have a client keep some hundred
// KiB, and no descriptor but a console's; all its words are clean.
//
// Threads: a client belongs to the thread that made it, where it shares an event loop with the thread's other clients.
class ControlClient {
 public:
  // To the living machine `name` under `base`. NOT_FOUND, with what to do next, when there is none.
  static absl::StatusOr<std::unique_ptr<ControlClient>> ConnectToMachine(const std::string& base,
                                                                         absl::string_view name,
                                                                         absl::Duration timeout = absl::Seconds(30));
  virtual ~ControlClient() = default;

  virtual absl::StatusOr<MachineDescription> Describe() = 0;
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  virtual absl::Status Reset() = 0;
  virtual absl::Status Stop(bool force) = 0;
  // Waits until the monitor is gone, as far as that is seen without its process id: it has closed this connection, and
  // the machine's name is free, or another one's.
  virtual absl::Status AwaitEnd() = 0;
  virtual absl::StatusOr<BalloonFigures> Balloon() = 0;
  // Returns when the guest has reached the target if `wait` is not zero, else at once.
  virtual absl::StatusOr<BalloonFigures> SetBalloon(uint64_t target_bytes, absl::Duration wait) = 0;
  // Returns the move's number when it has begun.
  virtual absl::StatusOr<uint64_t> StartMove(const std::string& where, const migration::MoveOptions& options,
                                             const migration::TlsOptions& tls) = 0;
  virtual absl::StatusOr<MoveStatus> GetMove() = 0;
  virtual absl::Status CancelMove() = 0;
  virtual absl::Status StartPostcopy() = 0;
  // MovePort has the contract; the number of the move is returned.
  virtual absl::StatusOr<uint64_t> RecoverMove(const std::string& where, const migration::TlsOptions& tls) = 0;
  virtual absl::Status TakeBack(bool force) = 0;
  // MirrorPort has the contract of these.
  virtual absl::StatusOr<uint64_t> StartMirror(const MirrorRequest& request) = 0;
  virtual absl::StatusOr<MirrorStatus> GetMirror(const std::string& disk) = 0;
  // An end with a standstill: it is waited for as long as it takes, and the machine tells its watchers of anything
  // within each timeout, as it does of a mirror that is on. `told`, if any, is what it tells of the disk's. It
  // subscribes, and takes what NextEvent() would return.
  using MirrorTold = std::function<void(const MirrorStatus& mirror)>;
  virtual absl::Status CompleteMirror(const std::string& disk, const MirrorTold& told) = 0;
  virtual absl::Status KeepMirrorCopy(const std::string& disk, const MirrorTold& told) = 0;
  virtual absl::Status CancelMirror(const std::string& disk) = 0;
  virtual absl::Status PauseMirror(const std::string& disk) = 0;
  virtual absl::Status ResumeMirror(const std::string& disk) = 0;
  virtual absl::Status SetMirror(const std::string& disk, uint64_t max_bandwidth) = 0;
  // A stream socket to the serial console.
  virtual absl::StatusOr<Fd> AttachConsole() = 0;
  // Subscribes; then NextEvent() returns one event after another, without a deadline. Of those that came meanwhile the
  // last 64 are kept, and the others are counted as missed.
  virtual absl::Status StartWatching() = 0;
  virtual absl::StatusOr<WatchedEvent> NextEvent() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_CLIENT_H_
