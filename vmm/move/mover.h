// The moves of one machine away from here, one at a time, each on a thread of its own.
#ifndef FERRITE_VMM_MOVE_MOVER_H_
#define FERRITE_VMM_MOVE_MOVER_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/rdma_options.h"
#include "migration/channel/socket/address.h"
#include "migration/session/source.h"
#include "vmm/control/move_port.h"
#include "vmm/machine/machine.h"
#include "vmm/move/machine_source.h"

namespace ferrite {

// A move runs on the thread "move", whoever asked for it and whether they still listen; what they hear of it is told on
// the thread "move-tick".
//
// Threads: any.
class Mover final : public MovePort {
 public:
  // Told each change in its order, what is every kTick while a move is on, and at last once that the move is over. One
  // call at a time, on a thread of the mover's for which the move does not wait before it is over: of more than
  // kMaxUntold changes that wait for a call the oldest are left out. It must not call the mover.
  using Listener = std::function<void(const MoveStatus&)>;
  static constexpr absl::Duration kTick = absl::Milliseconds(250);
  static constexpr size_t kMaxUntold = 64;

  // `machine` outlives the mover. `run_directory` is the machine's own, opened for reading: grants are recorded there.
  // `console_socket` is where its console listens, if it does.
  Mover(Machine& machine, Fd run_directory, std::string console_socket, Listener listener);
  // Cancels a move that can be cancelled, and waits for it.
  ~Mover() override;

  absl::Status Start(const std::string& where, const migration::MoveOptions& options,
                     const migration::TlsOptions& tls) override;
  MoveStatus status() const override;
  MoveStatus arrival() const override;
  absl::Status Cancel() override;
  absl::Status StartPostcopy() override;
  absl::Status Recover(const std::string& where, const migration::TlsOptions& tls) override;
  absl::Status TakeBack(bool force) override;
  // A destination that was lost is not looked for any more.
  void Leave();
  // From when it returned no move begins any more, nor the rest of one: UNAVAILABLE. One that is on goes on.
  void BeginEnd();
  absl::Status Allows(Operation operation, bool force) const override;
  void GiveUp() override;

  void SetArrival(MoveStatus arrival);

  // Whether a guest that went over may still need its memory from here.
  bool MustWait() const;
  // Returns when it does not, because it has all of it, was taken back, or was given up.
  void WaitUntilNotNeeded();
  // Returns when no move is on.
  void Wait();

 private:
  // Runs `phase` of source_ on the thread of the move, when mutex_ is free: what the phase needs may still be set
  // after this worked, and nothing was changed when it did not.
  absl::Status StartThread(std::function<absl::Status(migration::Source&)> phase)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(start_mutex_, mutex_);
  void Run(const std::function<absl::Status(migration::Source&)>& phase);
  absl::Status CheckHandedOver() const;
  // The address, if it is not one at which this monitor itself listens for something else.
  absl::StatusOr<migration::Address> ReadAddress(const std::string& where) const;
  // The thread of the move has news for the listener.
  void Note();
  // Tells the listener what is noted, and every kTick what is; returns when it was told that the move is over.
  void Tell();
  MoveStatus StatusNow() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The oldest news, or what is.
  MoveStatus TakeNews() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Needed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  GuestPlace PlaceAfter(const absl::Status& result) const;

  Machine& machine_;
  const Fd run_directory_;
  const std::string console_socket_;
  const Listener listener_;

  absl::Mutex start_mutex_;
  Thread thread_ ABSL_GUARDED_BY(start_mutex_);

  mutable TimedMutex mutex_ ABSL_ACQUIRED_AFTER(start_mutex_);
  bool on_ ABSL_GUARDED_BY(mutex_) = false;
  MoveStatus status_ ABSL_GUARDED_BY(mutex_);
  std::deque<migration::MoveProgress> untold_ ABSL_GUARDED_BY(mutex_);
  MoveStatus arrival_ ABSL_GUARDED_BY(mutex_);
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  // The last move's, kept for what is left to ask of it.
  std::unique_ptr<MachineSource> port_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<migration::Source> source_ ABSL_GUARDED_BY(mutex_);
  // That the last move began by.
  migration::TlsOptions tls_ ABSL_GUARDED_BY(start_mutex_);
  migration::RdmaOptions rdma_ ABSL_GUARDED_BY(start_mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_MOVER_H_
