// One move away, as the thread that runs it sees it.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_DEPARTURE_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_DEPARTURE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/cancel_token.h"
#include "base/monotonic.h"
#include "base/run_delay.h"
#include "base/thread.h"
#include "migration/api/host.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/source_machine.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/rendezvous.h"
#include "migration/protocol/version.h"
#include "migration/sending/blocking_parts.h"
#include "migration/sending/channel_turns.h"
#include "migration/sending/memory_part.h"
#include "migration/sending/outgoing_part.h"
#include "migration/sending/page_source.h"
#include "migration/sending/pending_pages.h"
#include "migration/session/credentials.h"
#include "migration/session/departure/departure_shared.h"
#include "migration/session/undo_stack.h"

namespace ferrite::migration {

// How long to wait for the destination's word of why a channel broke.
inline constexpr absl::Duration kReasonGrace = absl::Seconds(1);

// The connections of one try to reach the destination. What cancels `broken` ends whatever waits for them: the pages'
// channels are shut down, and the control channel says no more than what has arrived.
//
// Threads: the departure's. The peer's and the pages' own threads cancel.
class DepartureLink {
 public:
  explicit DepartureLink(CancelToken broken) : broken_(std::move(broken)) {}
  ~DepartureLink() { Close(); }

  CancelToken& broken() { return broken_; }
  // Null while there is none.
  ControlPeer* peer() { return peer_.get(); }
  PageSource* pages() { return pages_.get(); }
  void SetPeer(std::unique_ptr<ControlPeer> peer);
  void SetPages(std::unique_ptr<PageSource> pages);
  // From here on the pages' sender hears of page channels that the destination lost, and of those that it has told of.
  void HearOfBroken();
  // Nothing is sent any more: what the page channels held of the machine's memory they hold no longer.
  void DropPages();
  // Joins their threads, and is ready for others.
  void Close();

 private:
  CancelToken broken_;
  std::unique_ptr<ControlPeer> peer_;
  std::unique_ptr<PageSource> pages_;
  std::optional<CancelToken::Callback> interrupt_peer_;
  std::optional<CancelToken::Callback> shut_pages_down_;
};

// Made for a move, and kept for its recovery. The phases are functions (handshake.h, rounds.h, switchover.h,
// handover.h, recovery.h), which a list in source.cc joins; this is what one of them leaves for the next ones.
//
// Threads: one at a time, that of Source::Run(), Recover() or TakeBack(). What is shared with others is `shared`, and
// `link` for those threads that it made itself, which ask besides whether a round is to stop.
struct Departure {
  static absl::StatusOr<std::unique_ptr<Departure>> Create(const Host& host, SourceMachine& machine,
                                                           const MoveOptions& options, DepartureShared& shared);
  Departure(const Host& host, SourceMachine& machine, const MoveOptions& options, const MoveId& id,
            DepartureShared& shared, CancelToken broken);

  const Host& host;
  SourceMachine& machine;
  const MoveOptions options;
  const MoveId id;
  DepartureShared& shared;

  MemoryPart memory_part;
  std::vector<OutgoingPart*> parts;          // all that moves, memory first
  std::vector<MachineSpec::Region> regions;  // of all parts, as they are numbered
  std::vector<bool> region_is_mirrored;      // likewise
  bool mirrors = false;                      // some part is mirrored

  DepartureLink link;
  std::shared_ptr<ChannelOpener> opener;      // leads to the destination
  bool reached = false;                       // somebody took a channel since the last StartAnew()
  const std::shared_ptr<ChannelTurns> turns;  // of its page channels
  // What is still to be sent, which outlives the connections while it is copied.
  std::shared_ptr<PendingPages> pending;
  // Whoever may end it, while they may.
  std::optional<CancelToken::Callback> on_cancel;
  std::optional<CancelToken::Callback> on_abandon;
  std::optional<CancelToken::Callback> on_leave;

  // What the two sides have agreed on.
  uint64_t features = 0;
  Credentials credentials;
  std::vector<uint64_t> pages_per_unit;  // by region, in 4 KiB pages
  absl::Duration load_estimate;          // the destination's own

  std::optional<RunDelays> delays;  // since shortly before the guest stands still

  MonotonicTime started;
  MonotonicTime switchover;
  uint32_t round = 0;   // over these connections
  uint32_t rounds = 0;  // over those before them
  uint32_t cuts = 0;    // rounds among all these that were parts of one
  bool asked = false;   // whether what was sent has arrived: the answer is due
  // What has begun.
  bool copies_mirrored = false;
  bool mirrored_ready = false;
  bool copies_memory = false;
  uint64_t memory_bytes = 0;  // of memory, then
  // Where the connection was lost, until something came of it.
  std::optional<MonotonicTime> lost_since;
  bool postcopy = false;  // pages flow behind the switchover
  bool serving = false;   // and do so by now
  uint64_t epoch = 1;     // of the last GRANT
  // GRANT went out, and the destination has not refused it: it may run the guest.
  bool may_run_there = false;

  // Makes the machine as it was.
  UndoStack undo;
  std::vector<OutgoingPart*> tracked;  // whose writes are noted
  BlockingParts blocking{host};        // whose writers wait; its thread lives while they may
  double mirror_rate = 0;              // MirroredTrend::rate, of the last rounds
  double mirror_dirty_rate = 0;        // bytes/s, in the last one

  // Of the guest's memory, before the first round. A thread beside the departure's sets it.
  std::atomic<uint64_t> huge_bytes = 0;
  Thread beside;

  MoveProgress progress;
  MoveReport report;

  ControlPeer& peer() { return *link.peer(); }
  PageSource& pages() { return *link.pages(); }
  MonotonicTime Now() const { return host.clock.Now(); }
  bool cancelled() const { return shared.cancel().cancelled(); }
  // The copy phases go on after a lost connection.
  bool can_resume() const { return (features & kFeatureResume) != 0; }
  // Behind GRANT the move goes on over the page channels that live.
  bool can_have_fewer() const { return (features & kFeatureFewer) != 0; }
  // The next step of the destination's, of which it has MoveOptions::patience. While the guest stands still,
  // SwitchOver() watches the time.
  template <typename T>
  absl::StatusOr<T> Await() {
    return peer().Expect<T>(options.patience);
  }
  // Since when the rate of sending is measured that others are told.
  enum class Rate {
    kAsBefore,
    kFromHere,
    kIsKnown,  // it is in `progress`
  };
  // Of a round that was decided.
  uint32_t rounds_so_far() const { return rounds + round - cuts; }
  // Tells others of `progress`.
  void Publish(Rate rate = Rate::kAsBefore);
  // Leaves those out of the mirrored parts that are declined, before anything is done to any: the rest is all that
  // moves, and numbered anew.
  void Decline(absl::FunctionRef<bool(const OutgoingPart&)> is_declined);
  // What is written to any of these parts is noted; with an error, to none at all.
  absl::Status StartTracking(WhichParts which);
  void StopTracking();
  // Who cancels ends the connections.
  void EndOnCancel();
  // Whether some mirrored part has those wait that write to it.
  bool StartBlocking();
  // Mirrored parts are ready for the first time.
  void TellReady();

 private:
  void NumberRegions();

  MonotonicTime rate_from_ = MonotonicTime::InfiniteFuture();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_DEPARTURE_H_
