// What leaves over the page and urgent channels of a move: which pages of its parts next, in rounds first and on
// request afterwards.
#ifndef FERRITE_MIGRATION_SENDING_PAGE_SOURCE_H_
#define FERRITE_MIGRATION_SENDING_PAGE_SOURCE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "memory/guest_address.h"
#include "memory/page_range.h"
#include "migration/api/host.h"
#include "migration/api/move_options.h"
#include "migration/channel/page_sink.h"
#include "migration/sending/bulk_size.h"
#include "migration/sending/channel_turns.h"
#include "migration/sending/claim_size.h"
#include "migration/sending/crew.h"
#include "migration/sending/live_channels.h"
#include "migration/sending/outgoing_part.h"
#include "migration/sending/page_sender.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/rate_limiter.h"
#include "migration/sending/request_server.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

// A thread for each channel, from the beginning to the end: when the guest stands still, none has to be made.
//
// Threads: the session's thread calls; Shutdown() and OnBroken() are for any.
class PageSource {
 public:
  struct Channels {
    std::vector<std::unique_ptr<PageSink>> page;
    std::vector<std::unique_ptr<UrgentSink>> urgent;
    bool know_lost = false;                         // the other end knows pages that the hardware lost
    std::shared_ptr<ChannelTurns> turns = nullptr;  // of the page channels; none: all are used
    // Behind the switchover a page channel breaks alone while others live. That is told to the other end, where this
    // one is the first to notice. Empty: that end does not know it, and one is all. On any thread, as the next one.
    std::function<void(size_t channel)> tell_broken = nullptr;
    // The move goes on without it, over those that are `living`.
    std::function<void(size_t channel, size_t living, const absl::Status& why)> on_fewer = nullptr;
  };
  struct Pending {
    bool can_be_lost;                     // Arrived() and TakeBack() may be called
    std::shared_ptr<PendingPages> pages;  // of a source before this one, of the same parts
  };
  // `parts` are numbered one after the other; `pages_per_unit` has all their regions, as PendingPages wants it.
  // `host`, the parts and `figures` outlive this.
  // `on_failure` is called on the thread that failed, from StartPostcopy() on.
  static absl::StatusOr<std::unique_ptr<PageSource>> Create(const Host& host, std::vector<OutgoingPart*> parts,
                                                            std::span<const uint64_t> pages_per_unit, Channels channels,
                                                            const MoveOptions& options, SendFigures& figures,
                                                            std::function<void(const absl::Status&)> on_failure,
                                                            Pending pending = {});
  // Ends the threads.
  ~PageSource();

  // Makes all pages of these parts pending, but for those that were never touched or that nobody needs: these are told
  // to be zero.
  absl::Status Start(WhichParts parts = WhichParts::kAll);
  // What was sent until now is asked for; the other side has what was asked for last, or all (PendingPages).
  void AskForArrival() { pending_->AskForArrival(); }
  bool Arrived() { return pending_->Arrived(); }
  void AllArrived() { pending_->AllArrived(); }
  // The source before this one has lost its connections: what may not have arrived goes again, and what was written to
  // `written`, all that was started, meanwhile. Before the first round.
  absl::Status TakeBack(WhichParts written);

  // Sends what is pending of mirrored parts, and then, unless it is for these alone, of the others, all or some of it,
  // on all channels, until there is nothing, `stop` returns true, or a channel fails; then ends the round on every
  // channel. One over which nothing goes for kStalled, when another one is done, has failed: it would hold up all.
  static constexpr absl::Duration kStalled = absl::Seconds(2);
  absl::Status SendRound(uint32_t number, absl::FunctionRef<bool()> stop, RoundPages pages = RoundPages::kAll,
                         WhichParts parts = WhichParts::kAll);
  // No round of memory follows: PageSink::EndRounds() of all page channels. Between two rounds, before the other side
  // drops anything.
  absl::Status EndRounds();
  // Of the parts that are not mirrored, but for the last.
  struct Dirty {
    uint64_t bytes = 0;
    uint64_t again_bytes = 0;  // that had been found by one of the two calls before, too
    uint64_t mirrored_bytes = 0;
  };
  // Makes pending what was written to these parts since the last call. Not between Start() or TakeBack() and the end of
  // the round behind it: what they told to be zero went on one channel, and its data would go on any, in the same
  // round.
  absl::StatusOr<Dirty> CollectDirty(WhichParts parts = WhichParts::kAll);
  uint64_t PendingBytes(WhichParts parts = WhichParts::kAll) const {
    return pending_->CountPending(parts) * kPageBytes;
  }
  uint64_t PendingBytes(const OutgoingPart& part) const;
  // Of what a round of `pages` would send; counts no further than `most`.
  uint64_t PendingBytes(RoundPages pages, uint64_t most) const;
  // What the destination holds but is out of date: to be discarded there, and sent again.
  std::vector<PageRange> TakeStale(bool can_be_lost = false);

  // In place of all that: these are what is still to be sent (recovery), in whole units by StartPostcopy().
  void MakePending(const PageRange& run) { pending_->pending(run.region).SetRange(run.first, run.count); }
  // What is still to be sent, which may be counted by whoever wants to know.
  std::shared_ptr<PendingPages> pending() const { return pending_; }

  // Of the page channels: how long the destination may not read.
  void SetPatience(absl::Duration patience);
  // What is sent from here on is not held back, until StartPostcopy().
  void LiftLimit();
  // The switchover is decided and nothing is collected any more: what is asked for is sent from here on.
  void StartPostcopy();
  // And the rest, by heat. That is for when the guest runs again: while it stands still, the processors and the link
  // are for what it waits for.
  void StartRest();
  // Until everything was sent, or the last channel failed. What breaks from here on goes again all the same, until
  // Shutdown().
  absl::Status FinishRest();
  // The other end says that a page channel has ended, and, in pieces, what it misses. INVALID_ARGUMENT for what it
  // cannot say. Any thread, until the channels' end.
  absl::Status OnBroken(size_t channel, std::span<const PageRange> missing, bool last);

  // Makes everything that blocks fail.
  void Shutdown();

 private:
  // One of the parts' regions.
  struct Region {
    OutgoingPart* part;
    size_t index;                           // in the part
    std::unique_ptr<PageBitmap> collected;  // scratch
    PartSent* sent;                         // null: nobody asks
  };
  PageSource(const Host& host, std::vector<OutgoingPart*> parts, std::span<const uint64_t> pages_per_unit,
             Channels channels, const MoveOptions& options, SendFigures& figures,
             std::function<void(const absl::Status&)> on_failure, Pending pending);

  absl::Status StartThreads();
  absl::Status SendShare(size_t channel, uint32_t round, absl::FunctionRef<bool()> stop);
  // All of a round is claimed, and this channel's share of it gone: the others' is what is waited for.
  void HurryOthers(size_t channel);
  absl::Status TellSkipped(const PageRange& run);
  absl::Status SendRest(size_t channel);
  // Its channel is of no use any more: the others go on, if there are any. If not, why.
  absl::Status EndRest(size_t channel, const absl::Status& status);
  // A page channel ends alone; false where it is the last one, or the connection is over.
  bool BreaksAlone(size_t channel, const absl::Status& why, bool told);
  // What it lost is pending again.
  void GoOnWithout(size_t channel);
  absl::Status ServeRequests(size_t channel);
  absl::Status Send(PageSender& sender, const PageRange& run, uint64_t pages_per_unit);
  // What was claimed in a round, and had been sent before.
  void CountResent();
  // Of all senders.
  Losses losses();
  absl::StatusOr<PageRange> FoundLost(const uint8_t* address);
  // Waits for what the limit says, not longer than until Shutdown().
  void Rest(absl::Duration time);
  void NoteFirst(const absl::Status& status);
  // The first error of the threads, in time.
  absl::Status failure() const;
  // Of a thread behind the switchover, which nobody waits for.
  void Note(const absl::Status& status);

  const Host& host_;
  std::vector<Region> regions_;
  const std::function<void(const absl::Status&)> on_failure_;
  const Channels channels_;
  const std::shared_ptr<PendingPages> pending_;
  RateLimiter limiter_;
  const uint64_t postcopy_rate_;
  absl::Duration patience_;  // of the page channels
  std::atomic<bool> hurried_ = false;
  SendFigures& figures_;
  std::vector<std::unique_ptr<PageSender>> senders_;  // one for each page channel
  const std::shared_ptr<ChannelTurns> turns_;
  std::vector<ClaimSize> claim_sizes_;  // likewise, of the rounds
  BulkSize bulk_size_;                  // behind the switchover
  RequestServer::Shared urgent_;        // likewise
  bool told_skipped_ = false;           // in the round that is to end next
  TimedMutex shut_down_mutex_;
  bool shut_down_ ABSL_GUARDED_BY(shut_down_mutex_) = false;
  mutable absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;  // requests are answered
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<absl::Status> broken_ ABSL_GUARDED_BY(mutex_);  // why, by page channel
  LiveChannels live_;
  std::unique_ptr<Crew> crew_;  // of the page channels
  std::vector<Thread> urgent_threads_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_PAGE_SOURCE_H_
