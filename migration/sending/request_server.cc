#include "migration/sending/request_server.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/guest_address.h"

namespace ferrite::migration {
namespace {

// Of what nobody asked for, so much goes at once: a request that comes meanwhile waits for no more, a quarter of a
// millisecond at 1 Gbit/s.
constexpr uint64_t kPiecePages = 8;
// Streams of faults that have more to come; the predictor follows no more.
constexpr size_t kMostNear = 16;

}  // namespace

absl::Status RequestServer::Serve() {
  while (true) {
    while (!near_.empty() && !sink_.HasRequest()) {
      FERRITE_RETURN_IF_ERROR(SendNear());
    }
    const absl::StatusOr<PageRange> request = sink_.NextRequest();
    if (!request.ok()) {
      return absl::IsOutOfRange(request.status()) ? absl::OkStatus() : request.status();
    }
    FERRITE_RETURN_IF_ERROR(Check(*request));
    FERRITE_RETURN_IF_ERROR(Answer(*request));
  }
}

absl::Status RequestServer::Check(const PageRange& request) const {
  if (request.region >= pending_.regions()) {
    return absl::InvalidArgumentError("urgent channel: the destination sent what is no request");
  }
  if (!pending_.Contains(request)) {
    return absl::InvalidArgumentError(absl::StrCat("urgent channel: a request for pages ", request.first, "+",
                                                   request.count, " outside of region ", request.region));
  }
  if (pending_.mirrored(request.region)) {
    return absl::InvalidArgumentError(absl::StrCat("urgent channel: a request for pages of region ", request.region,
                                                   ", of which nothing is missing"));
  }
  const uint64_t per_unit = pending_.pages_per_unit(request.region);
  if (request.first / per_unit != (request.first + request.count - 1) / per_unit) {
    // A destination asks for a host page of its own, which is no larger than a unit.
    return absl::InvalidArgumentError(absl::StrCat("urgent channel: a request for pages ", request.first, "+",
                                                   request.count, " of region ", request.region,
                                                   ", which are no one host page"));
  }
  return absl::OkStatus();
}

absl::Status RequestServer::Answer(const PageRange& request) {
  figures_.faults.fetch_add(1, std::memory_order_relaxed);
  // The page itself leaves before anything else is looked at.
  const PageRange wanted = pending_.ClaimRequested(request.region, request.first, 0);
  if (wanted.count > 0) {
    FERRITE_RETURN_IF_ERROR(send_(sender_, wanted, pending_.pages_per_unit(request.region)));
    FERRITE_RETURN_IF_ERROR(sender_.Flush());
    figures_.requested_pages.fetch_add(wanted.count, std::memory_order_relaxed);
  }
  Foresee(request);
  return absl::OkStatus();
}

void RequestServer::Foresee(const PageRange& request) {
  const auto [pages, hit] = window_.OnRequest(request.region, request.first);
  figures_.prefetch_hits.fetch_add(hit ? 1 : 0, std::memory_order_relaxed);
  const uint64_t per_unit = pending_.pages_per_unit(request.region);
  const PageRange near{
      .region = request.region, .first = request.first + per_unit, .count = pages / per_unit * per_unit};
  if (near.count == 0 || near.first >= pending_.pending(near.region).pages()) {
    return;
  }
  if (near_.size() == kMostNear) {
    near_.pop_front();
  }
  near_.push_back(near);
}

absl::Status RequestServer::SendNear() {
  PageRange& rest = near_.back();
  const uint64_t per_unit = pending_.pages_per_unit(rest.region);
  const uint64_t most = std::min(rest.count, std::max(kPiecePages / per_unit * per_unit, per_unit));
  // Nobody asked for these: the limit is for them, too.
  if (!limiter_.TryTake(most * kPageBytes, clock_.Now())) {
    near_.pop_back();
    return absl::OkStatus();
  }
  const PageRange near = pending_.ClaimNear(rest.region, rest.first, most - per_unit);
  limiter_.Correct((static_cast<int64_t>(near.count) - static_cast<int64_t>(most)) * static_cast<int64_t>(kPageBytes));
  rest.first += near.count;
  rest.count -= near.count;
  if (near.count < most || rest.count == 0) {
    // What comes next is on its way.
    near_.pop_back();
  }
  if (near.count == 0) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(send_(sender_, near, per_unit));
  FERRITE_RETURN_IF_ERROR(sender_.Flush());
  figures_.prefetched_pages.fetch_add(near.count, std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace ferrite::migration
