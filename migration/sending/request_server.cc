#include "migration/sending/request_server.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/guest_address.h"

namespace ferrite::migration {

absl::Status RequestServer::Serve() {
  while (true) {
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
  const auto [extra, hit] = window_.OnRequest(request.region, request.first);
  figures_.prefetch_hits.fetch_add(hit ? 1 : 0, std::memory_order_relaxed);
  const uint64_t per_unit = pending_.pages_per_unit(request.region);
  // The page itself leaves before anything else is looked at.
  const PageRange wanted = pending_.ClaimRequested(request.region, request.first, 0);
  if (wanted.count > 0) {
    FERRITE_RETURN_IF_ERROR(send_(sender_, wanted, per_unit));
    FERRITE_RETURN_IF_ERROR(sender_.Flush());
    figures_.requested_pages.fetch_add(wanted.count, std::memory_order_relaxed);
  }
  // Nobody asked for these: the limit is for them, too.
  const uint64_t next = request.first + per_unit;
  if (extra >= per_unit && next < pending_.pending(request.region).pages() &&
      limiter_.TryTake(uint64_t{extra} * kPageBytes, clock_.Now())) {
    const PageRange near = pending_.ClaimNear(request.region, next, extra - per_unit);
    limiter_.Correct((static_cast<int64_t>(near.count) - static_cast<int64_t>(extra)) *
                     static_cast<int64_t>(kPageBytes));
    if (near.count == 0) {
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(send_(sender_, near, per_unit));
    FERRITE_RETURN_IF_ERROR(sender_.Flush());
    figures_.prefetched_pages.fetch_add(near.count, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
