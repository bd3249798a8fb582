// The destination's fault threads: page faults of the guest become requests, and their answers pages
// (docs/architecture.md).
#ifndef FERRITE_MIGRATION_PLACING_FAULT_SERVER_H_
#define FERRITE_MIGRATION_PLACING_FAULT_SERVER_H_

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/thread.h"
#include "memory/page_range.h"
#include "migration/api/host.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/wait_set.h"
#include "migration/placing/asked_pages.h"
#include "migration/placing/memory_landing.h"
#include "migration/placing/page_receiver.h"
#include "migration/placing/placement.h"
#include "migration/placing/request_queue.h"
#include "migration/placing/userfault.h"
#include "migration/placing/wait_accounts.h"

namespace ferrite::migration {

// One thread for each urgent channel. A thread waits for faults and for answers at once, so that a fault costs two
// wake-ups here (its own, and its answer's) and one at the source. All threads read the same userfaultfd's
// descriptors, each asks over its own channel, and PageStates sees to it that a page is asked for once (R5). The first
// thread sends what other parts ask for, too.
//
// Without a channel (the connection is lost) one thread resolves what is here, and notes what is not.
class FaultServer {
 public:
  struct Callbacks {
    std::function<void(const absl::Status&)> on_failure;  // on a fault thread, at most once for each
    std::function<void()> on_page;                        // pages were placed
  };

  // All outlive the server. `ask_again`: what was asked for over a connection that is gone is asked for first.
  static absl::StatusOr<std::unique_ptr<FaultServer>> Create(const Host& host, MemoryLanding& memory,
                                                             Placement& placement, RequestQueue& requests,
                                                             std::span<const std::unique_ptr<UrgentFeed>> urgent,
                                                             WaitAccounts& waits, ReceiveFigures& figures,
                                                             Callbacks callbacks, bool ask_again);
  // Ends the threads. A thread in the middle of a frame ends with the frame, or when its channel is shut down.
  ~FaultServer();

  // The threads are to end; does not wait for them. What happens to their channels from here on is no failure.
  void End() { stop_.Signal(); }

 private:
  FaultServer(const Host& host, MemoryLanding& memory, Placement& placement, RequestQueue& requests,
              WaitAccounts& waits, ReceiveFigures& figures, Callbacks callbacks, EventFd stop);

  absl::StatusOr<std::vector<PageRange>> AskAgain(UrgentFeed& feed);
  // What a thread waits for. `feed` may be null, here and below.
  absl::StatusOr<WaitSet> WatchAll(UrgentFeed* feed, bool takes_requests) const;
  // `asked`: what was asked for over `feed`, as below.
  absl::Status Serve(WaitSet& set, UrgentFeed* feed, AskedPages asked);
  // The tags of what has something; none, and what is overdue was asked for again.
  absl::StatusOr<uint32_t> AwaitSomething(WaitSet& set, UrgentFeed* feed, AskedPages& asked);
  absl::Status TakeFaults(UrgentFeed* feed, size_t descriptor, AskedPages& asked);
  absl::Status Ask(UrgentFeed* feed, std::span<const PageRange> requests, AskedPages& asked);
  absl::Status Handle(const Fault& fault, std::vector<PageRange>& requests);

  const Host& host_;
  MemoryLanding& memory_;
  Placement& placement_;
  RequestQueue& requests_;
  WaitAccounts& waits_;
  ReceiveFigures& figures_;
  const Callbacks callbacks_;
  const EventFd stop_;
  std::vector<Thread> threads_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_FAULT_SERVER_H_
