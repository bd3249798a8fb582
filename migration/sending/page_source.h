// The source's pages: which are sent, over which channels, in rounds first and on request afterwards.
#ifndef FERRITE_MIGRATION_SENDING_PAGE_SOURCE_H_
#define FERRITE_MIGRATION_SENDING_PAGE_SOURCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/thread.h"
#include "memory/page_range.h"
#include "migration/api/host.h"
#include "migration/api/move_options.h"
#include "migration/api/source_machine.h"
#include "migration/channel/stream.h"
#include "migration/sending/page_sender.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/rate_limiter.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

// Threads: the session's thread calls; Shutdown() is for any.
class PageSource {
 public:
  // `page` and `urgent` are the channels' streams; `pages_per_unit` as PendingPages wants it. `host`,
  // `memory`, `dirty_log` and `figures` outlive this.
  // `on_failure` is called on the thread that failed, for threads that StartPostcopy() started.
  PageSource(const Host& host, const GuestMemory& memory, DirtyLog& dirty_log, std::vector<uint64_t> pages_per_unit,
             std::vector<std::unique_ptr<Stream>> page, std::vector<std::unique_ptr<Stream>> urgent,
             const MoveOptions& options, SendFigures& figures, std::function<void(const absl::Status&)> on_failure);
  // Ends the threads.
  ~PageSource();

  // Makes all pages pending, but for those that were never touched or that nobody needs: these are told to be zero.
  absl::Status Start();
  // Sends what is pending, on all channels, until there is nothing, `stop` returns true, or a channel fails; then ends
  // the round on every channel.
  absl::Status SendRound(uint32_t number, const std::function<bool()>& stop);
  // Makes pending what was written since the last call. Returns how many bytes that is.
  absl::StatusOr<uint64_t> CollectDirty();
  uint64_t PendingBytes() const;
  // What the destination holds but is out of date: to be discarded there, and sent again.
  std::vector<PageRange> TakeStale();

  // In place of all that: these, whole units, are what is still to be sent (recovery).
  void MakePending(const PageRange& run) { pending_->pending(run.region).SetRange(run.first, run.count); }
  // What is still to be sent, which may be counted by whoever wants to know.
  std::shared_ptr<const PendingPages> pending() const { return pending_; }

  // What is sent from here on is not held back, until StartPostcopy().
  void LiftLimit();
  // The switchover is decided and nothing is collected any more: threads send what is asked for, and the rest by heat.
  // After an error, some of them may.
  absl::Status StartPostcopy();
  // Until everything was sent, or a channel failed.
  absl::Status FinishPostcopy();

  // Makes everything that blocks fail.
  void Shutdown();

 private:
  absl::Status SendShare(size_t channel, uint32_t round, const std::function<bool()>& stop);
  absl::Status SendRest(size_t channel);
  absl::Status ServeRequests(size_t channel);
  // The first error of the threads.
  void Note(const absl::Status& status);

  const Host& host_;
  const GuestMemory& memory_;
  DirtyLog& dirty_log_;
  const std::vector<uint64_t> pages_per_unit_;
  const std::function<void(const absl::Status&)> on_failure_;
  const std::vector<std::unique_ptr<Stream>> page_;
  const std::vector<std::unique_ptr<Stream>> urgent_;
  const std::shared_ptr<PendingPages> pending_;
  std::vector<std::unique_ptr<PageBitmap>> collected_;  // scratch, one a region
  RateLimiter limiter_;
  const uint64_t postcopy_rate_;
  SendFigures& figures_;
  std::vector<std::unique_ptr<PageSender>> senders_;  // one for each page channel
  absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<Thread> bulk_threads_;
  std::vector<Thread> urgent_threads_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_PAGE_SOURCE_H_
