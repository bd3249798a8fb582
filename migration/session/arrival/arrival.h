// One incoming move, as the thread that runs it sees it.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/cancel_token.h"
#include "base/clock.h"
#include "base/run_delay.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/destination_machine.h"
#include "migration/api/host.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/page_feed.h"
#include "migration/placing/fault_server.h"
#include "migration/placing/incoming_part.h"
#include "migration/placing/memory_landing.h"
#include "migration/placing/placement.h"
#include "migration/placing/request_queue.h"
#include "migration/placing/round_gate.h"
#include "migration/placing/wait_accounts.h"
#include "migration/session/arrival/arrival_options.h"
#include "migration/session/arrival/arrival_shared.h"
#include "migration/session/arrival/receive_watch.h"
#include "migration/session/credentials.h"
#include "migration/session/greeter.h"
#include "migration/session/undo_stack.h"

namespace ferrite::migration {

// The connections of a source, and the threads that read its pages. What cancels `broken` shuts the pages' channels
// down, and so does a cancel of the move.
//
// Threads: the arrival's. The threads of the connections cancel.
class ArrivalLink {
 public:
  using PageFeeds = std::vector<std::unique_ptr<PageFeed>>;
  using UrgentFeeds = std::vector<std::unique_ptr<UrgentFeed>>;

  ArrivalLink(CancelToken broken, CancelToken& cancel);
  ~ArrivalLink() { End(); }

  CancelToken& broken() { return broken_; }
  // Null while there is none. A cancel interrupts it, and so does all that breaks the link until LetPeerOutlast().
  ControlPeer* peer() { return peer_.get(); }
  void SetPeer(std::unique_ptr<ControlPeer> peer);
  // From here on, what breaks the other channels leaves the source its word.
  void LetPeerOutlast() { interrupt_when_broken_.reset(); }

  void SetChannels(PageFeeds page, UrgentFeeds urgent);
  const PageFeeds& page() const { return page_; }
  const UrgentFeeds& urgent() const { return urgent_; }
  // A page channel ends alone, and the source is told what is missing. False, and nothing was done, where no other one
  // lives, or all were shut down here. This and the next two: any thread.
  bool LoseOne(size_t channel);
  // Its thread ends without that, or the source asks for it. Whether both are so.
  bool EndOne(size_t channel);
  bool AskOne(size_t channel);
  // Whether the others are lost, too, within `limit`. Waits for that, or until they are shut down here. Any thread.
  bool BreaksWithin(const Clock& clock, absl::Duration limit);

  // Threads that use the channels: the receivers of the pages', and those that serve faults.
  std::vector<Thread> receivers;
  std::unique_ptr<FaultServer> faults;

  void ShutChannelsDown();
  // Joins them: they end when their channels are shut down, or when all has come.
  void EndThreads();
  // Breaks the link, joins all its threads, and is ready for another one.
  void Close();

 private:
  void End();
  void BreakOnCancel();

  CancelToken broken_;
  CancelToken& cancel_;
  std::optional<CancelToken::Callback> on_cancel_;
  std::unique_ptr<ControlPeer> peer_;
  std::optional<CancelToken::Callback> interrupt_on_cancel_;
  std::optional<CancelToken::Callback> interrupt_when_broken_;
  PageFeeds page_;
  UrgentFeeds urgent_;
  std::optional<CancelToken::Callback> shut_channels_down_;
  TimedMutex mutex_;
  bool is_shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  struct PageChannel {
    bool lost = false;
    bool ended = false;
    bool asked = false;
  };
  std::vector<PageChannel> channels_ ABSL_GUARDED_BY(mutex_);  // of `page_`
};

// The phases are functions (handshake.h, receiving.h, handover.h, settling.h, recovery.h), which a list in
// destination.cc joins; this is what one of them leaves for the next ones.
//
// Threads: that of Destination::Run(). What is shared with others is `shared`; the threads of `link`, which end before
// what they use, have `placement`, `gate`, `waits`, `watch`, `requests` and OnPage().
struct Arrival {
  static absl::StatusOr<std::unique_ptr<Arrival>> Create(const Host& host, MachineBuilder& builder,
                                                         ArrivalOptions options, ArrivalShared& shared);
  Arrival(const Host& host, MachineBuilder& builder, ArrivalOptions options, ArrivalShared& shared, CancelToken broken,
          RequestQueue requests);
  ~Arrival();

  const Host& host;
  MachineBuilder& builder;
  const ArrivalOptions options;
  ArrivalShared& shared;
  DropLog drops;

  Greeter::Terms terms;     // what the two sides have agreed on
  Credentials credentials;  // likewise
  bool postcopy_possible = false;
  bool has_writers = false;  // the acceptor knows the memory, and who writes to it is known
  bool loaded = false;       // the state is applied: GRANT may come
  uint64_t epoch = 0;        // of GRANT
  bool armed = false;        // who touches what is missing waits
  bool settled = false;      // all is here, and faults are the kernel's again
  bool revoked = false;      // the source took the guest back
  UndoStack undo;
  std::optional<RunDelays> delays;  // since the last round

  // In the order in which they are needed: who uses something ends before it.
  RequestQueue requests;  // of the parts, which may use it as long as they live
  std::unique_ptr<DestinationMachine> machine;
  std::unique_ptr<MemoryLanding> memory;
  std::vector<IncomingPart*> parts;  // all that comes, memory first
  std::unique_ptr<Placement> placement;
  std::shared_ptr<WaitAccounts> waits;
  std::unique_ptr<RoundGate> gate;
  ReceiveWatch watch;
  ArrivalLink link;
  std::optional<CancelToken::Callback> fail_gate;

  ControlPeer& peer() { return *link.peer(); }
  MonotonicTime Now() const { return host.clock.Now(); }
  bool cancelled() const { return shared.cancel().cancelled(); }
  bool leaving() const { return shared.leave().cancelled(); }
  bool postcopy() const { return shared.postcopy; }
  // Where the channels wait for one another, as many as there are: in place of the last one, at which nobody waits.
  void MakeGate();
  // Whoever waits for what is missing goes on, and what it finds is not used. On any thread.
  void LetGoOfWaiters();
  // The guest never runs here: its parts remove what they made.
  void AbandonParts();
  // That, and forgets the machine and all that was made for it.
  void DropMachine();
  // Of a guest that ran here: whether it still is.
  absl::string_view GuestWords() const;
  // On any thread: some page is here.
  void OnPage();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_H_
