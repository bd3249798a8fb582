// The source's side of a move: a straight list of phases (docs/move.md).
#ifndef FERRITE_MIGRATION_SESSION_SOURCE_H_
#define FERRITE_MIGRATION_SESSION_SOURCE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"
#include "memory/page_range.h"
#include "migration/api/machine_port.h"
#include "migration/api/move_id.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/channel/address.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/dialer.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/sending/page_source.h"

namespace ferrite::migration {

// One move, made once and run once.
//
// After Run() returned
//   OK          the destination runs the guest, has all of it and has said so (R10); SourcePort::Moved() was called;
//   an error    and state() is failed or cancelled: the guest is at the source as it was (R3), or was ended meanwhile,
//               and another move may follow. The Status does not say which: the machine knows;
//   an error    and state() is postcopy-paused: GRANT went out, the destination may run the guest; this side keeps it
//               paused, with all its memory, and never resumes by itself (R2, R4). Recover() tries to go on,
//               TakeBack() ends it.
//
// Threads: Run(), Recover() and TakeBack() one at a time; the rest from any, at any time.
class Source {
 public:
  // `on_progress` (may be null) is called on the thread of Run(), at each change of state and after each round.
  static absl::StatusOr<std::unique_ptr<Source>> Create(SourcePort& port, MoveOptions options,
                                                        std::function<void(const MoveProgress&)> on_progress);

  ~Source();

  // When a connection is lost behind GRANT, it looks for the destination again for MoveOptions::recover_for.
  absl::Status Run(const Address& destination);
  // As Run(), for a move that is postcopy-paused: compares with the destination, and sends what is missing there (R4).
  absl::Status Recover(const Address& destination);
  // For a move that is postcopy-paused: the guest runs here again, as it was when it was handed over.
  // FAILED_PRECONDITION when the destination says that it has the guest, UNAVAILABLE when it can be connected to but
  // does not answer, unless `force`. A destination that cannot be connected to is believed to be gone: only a person
  // can know that (docs/move.md).
  absl::Status TakeBack(bool force);
  // Ends the looking for the destination.
  void Leave();
  // Gives up what the destination may still need from here: the connections are closed, and a guest that went over and
  // misses pages is lost. Run() returns as after a connection that was lost for good.
  void Abandon();

  // FAILED_PRECONDITION after GRANT.
  absl::Status Cancel();
  // Ends the rounds as soon as may be. FAILED_PRECONDITION when the destination cannot serve faults, or it is too late.
  absl::Status StartPostcopy();

  MoveState state() const { return state_.get(); }
  // Where the destination is, or was last.
  std::string where() const;
  // Whether the destination was heard to have taken the guest.
  bool ran_there() const { return ran_there_; }
  MoveProgress progress() const;
  // Complete when Run() returned.
  MoveReport report() const;

 private:
  // Each is served by a thread at either end.
  static constexpr uint16_t kUrgentChannels = 2;

  Source(SourcePort& port, MoveOptions options, std::function<void(const MoveProgress&)> on_progress, EventFd cancel,
         const MoveId& id);

  absl::Status RunPhases(const Address& destination);
  absl::Status Setup(const Address& destination);
  absl::Status OpenControl(const Address& destination, absl::Duration silence);
  absl::Status OpenPages(const Address& destination);
  absl::Status Advise();
  absl::Status Rounds();
  absl::Status Switchover();
  absl::Status SwitchoverPrecopy();
  absl::Status SwitchoverPostcopy();
  absl::Status SendPackage();
  // Of the guest, before GRANT; afterwards nobody can end it.
  absl::Duration StandstillLimit() const;
  void EndStandstill(const absl::Status& reason);
  // On a thread of the page channels.
  void OnPageFailure(const absl::Status& failure);
  absl::Status Grant();
  // `start`: of what counts as starting the guest.
  absl::Status SendGrant(MonotonicTime start, absl::Duration patience);
  absl::Status End();
  // Undoes what was done, so that the guest is as it was before; behind GRANT only stands still.
  absl::Status GiveUp(const absl::Status& reason);
  absl::Status StandStill(const absl::Status& reason);
  // What the other side said of a failure comes before what was noticed of it here.
  absl::Status WordsFor(const absl::Status& reason) const;
  // The reason, which was told to the destination as far as it can be told.
  absl::Status TellWhy(const absl::Status& reason, bool cancelled);
  // May be called again when it did not come to its end.
  absl::Status RunHere();
  void StopTracking();
  // Tries to find the destination until it worked, there is nothing to recover, or the time is up.
  absl::Status KeepTrying(const Address& destination, const absl::Status& lost);
  struct Search {
    // When it is over. Time is given for progress: a connection that is found again and again, and lost before anything
    // came of it, is none.
    MonotonicTime until;
    std::optional<uint64_t> least_missing;  // 4 KiB pages, that the destination told
    bool told = false;                      // at the last try
  };
  // One try, of which each answer is to come before the end of the search; that moves on with what comes of it.
  absl::Status TryToRecover(const Address& destination, Search& search);
  absl::Status TryToTakeBack(bool force);
  // Forgets the connections, and gets ready for others.
  absl::Status StartAnew();
  absl::StatusOr<bool> AskWhetherGranted(const Address& destination, absl::Duration limit);
  // Waits for the next step of the destination's. While the guest stands still, Switchover() watches the time.
  template <typename T>
  absl::StatusOr<T> Await() {
    return peer_->Expect<T>(options_.patience);
  }
  absl::StatusOr<std::vector<PageRange>> AskWhatIsMissing(absl::Duration limit);
  absl::Status Finished(const absl::Status& status);

  absl::StatusOr<std::unique_ptr<Stream>> OpenChannel(const Address& destination, ChannelRole role, uint16_t index);
  absl::Status SendDiscards(bool wait);
  // Until the destination has placed all that was sent.
  absl::Status AwaitArrival();
  // The round round_, over all channels.
  absl::Status SendRound(const std::function<bool()>& stop);
  absl::Status EndRound(bool last);
  bool StopRound() const;
  void Publish(const std::function<void(MoveProgress&)>& change);
  // Publishes, and measures the rate from here on.
  void PublishStart();
  void TakeFigures(message::DestinationFigures figures);

  SourcePort& port_;
  const MoveOptions options_;
  const std::function<void(const MoveProgress&)> on_progress_;
  const EventFd cancel_;
  const MoveId id_;
  MoveStateMachine state_;
  // Read and written by the thread of Run(), which reads it without the lock.
  std::string where_;
  MonotonicTime started_;

  Address destination_;
  Dialer dialer_;       // of the thread of Run()
  uint64_t epoch_ = 1;  // of the last GRANT
  MonotonicTime switchover_;
  std::vector<uint64_t> pages_per_unit_;
  uint64_t features_ = 0;  // that both sides have

  std::atomic<bool> cancelled_{false};
  std::atomic<bool> postcopy_wanted_{false};
  std::atomic<bool> postcopy_possible_{false};
  std::atomic<bool> ran_there_{false};

  // What GiveUp() has to undo.
  bool inhibited_ = false;
  bool tracking_ = false;
  bool paused_ = false;
  bool disks_released_ = false;
  // GRANT went out, and the destination has not refused it: it may run the guest.
  bool may_run_there_ = false;

  bool postcopy_ = false;
  bool serving_ = false;  // pages flow behind the rounds
  bool reached_ = false;  // somebody took a connection since StartAnew()
  uint32_t round_ = 0;
  absl::Duration load_estimate_;  // the destination's own

  mutable TimedMutex mutex_;
  // Set once in Setup(); Cancel() shuts it down.
  std::unique_ptr<ControlPeer> control_ ABSL_GUARDED_BY(mutex_);
  ControlPeer* peer_ = nullptr;  // the same, for the thread of Run()
  MoveProgress progress_ ABSL_GUARDED_BY(mutex_);
  // Of the round that is on, or of post-copy.
  MonotonicTime round_start_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfiniteFuture();
  uint64_t sent_before_ ABSL_GUARDED_BY(mutex_) = 0;
  MoveReport report_ ABSL_GUARDED_BY(mutex_);
  MoveReport earlier_ ABSL_GUARDED_BY(mutex_);  // of page channels that are gone
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  // The last member: its threads use the others.
  std::unique_ptr<PageSource> pages_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_SOURCE_H_
