// What the source answers on an urgent channel.
#ifndef FERRITE_MIGRATION_SENDING_REQUEST_SERVER_H_
#define FERRITE_MIGRATION_SENDING_REQUEST_SERVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "memory/page_range.h"
#include "migration/channel/page_sink.h"
#include "migration/sending/fault_window.h"
#include "migration/sending/page_sender.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/rate_limiter.h"
#include "migration/sending/requests_first.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

// The page that is asked for leaves at once (R5); what is near it follows while nobody asks, as far as it is foreseen
// (FaultWindow) and the limit allows it. Threads: one.
class RequestServer {
 public:
  // Sends claimed pages, in units.
  using Send = std::function<absl::Status(PageSender& sender, const PageRange& run, uint64_t pages_per_unit)>;
  // Of all urgent channels of a move.
  struct Shared {
    FaultWindow window;
    RequestsFirst first;
  };
  // All outlive it. `limiter` goes by `clock`.
  RequestServer(UrgentSink& sink, PendingPages& pending, Shared& shared, RateLimiter& limiter, const Clock& clock,
                SendFigures& figures, Losses losses, Send send)
      : sink_(sink),
        pending_(pending),
        shared_(shared),
        limiter_(limiter),
        clock_(clock),
        figures_(figures),
        send_(std::move(send)),
        sender_(sink, /*limiter=*/nullptr, /*rest=*/nullptr, clock, figures, std::move(losses)) {}

  // Until the destination closes the channel: it has everything.
  absl::Status Serve();

 private:
  absl::Status Check(const PageRange& request) const;
  // Those that are there, one at least. Whether there are any; not when the channel is closed.
  absl::StatusOr<bool> TakeRequests(std::vector<PageRange>& requests);
  absl::Status Answer(std::span<const PageRange> requests);
  // The units of these, neighbours as one.
  std::vector<PageRange> NeighboursOf(std::span<const PageRange> requests) const;
  // Notes what is worth sending behind it.
  void Foresee(const PageRange& request);
  // A piece of that.
  absl::Status SendNear();

  UrgentSink& sink_;
  PendingPages& pending_;
  Shared& shared_;
  RateLimiter& limiter_;
  const Clock& clock_;
  SendFigures& figures_;
  const Send send_;
  PageSender sender_;
  std::deque<PageRange> near_;  // foreseen, and not sent: the latest last
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_REQUEST_SERVER_H_
