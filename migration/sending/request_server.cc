#include "migration/sending/request_server.h"

#include <algorithm>
#include <atomic>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/guest_address.h"

namespace ferrite::migration {
namespace {

// Of what nobody asked for, so much goes at once: a request that comes meanwhile waits for no more, a quarter of a
// millisecond at 1 Gbit/s.
constexpr uint64_t kPiecePages = 8;
// Requests that are answered together: whoever asked first waits until the last of them is read.
constexpr size_t kMostAtOnce = 64;
// Streams of faults that have more to come; the predictor follows no more.
constexpr size_t kMostNear = 16;

}  // namespace

absl::Status RequestServer::Serve() {
  while (true) {
    while (!near_.empty() && !sink_.HasRequest()) {
      FERRITE_RETURN_IF_ERROR(SendNear());
    }
    std::vector<PageRange> requests;
    FERRITE_ASSIGN_OR_RETURN(const bool has_some, TakeRequests(requests));
    if (!has_some) {
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(Answer(requests));
    for (const PageRange& request : requests) {
      Foresee(request);
    }
  }
}

absl::StatusOr<bool> RequestServer::TakeRequests(std::vector<PageRange>& requests) {
  do {
    const absl::StatusOr<PageRange> request = sink_.NextRequest();
    if (absl::IsOutOfRange(request.status())) {
      // It stays so.
      break;
    }
    FERRITE_RETURN_IF_ERROR(request.status());
    FERRITE_RETURN_IF_ERROR(Check(*request));
    requests.push_back(*request);
  } while (requests.size() < kMostAtOnce && sink_.HasRequest());
  return !requests.empty();
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

absl::Status RequestServer::Answer(std::span<const PageRange> requests) {
  const RequestsFirst::Answering answering(shared_.first);
  std::vector<PageRange> again;
  for (const PageRange& request : requests) {
    if (pending_.NoteAsked(request.region, request.first)) {
      again.push_back(request);
    }
  }
  figures_.faults.fetch_add(requests.size() - again.size(), std::memory_order_relaxed);
  uint64_t pages = 0;
  for (const PageRange& run : NeighboursOf(requests)) {
    const uint64_t per_unit = pending_.pages_per_unit(run.region);
    const uint64_t end = run.first + run.count;
    for (uint64_t first = run.first; first < end;) {
      const PageRange wanted = pending_.ClaimRequested(run.region, first, end - first - per_unit);
      // What is on its way is passed over.
      first += std::max(wanted.count, per_unit);
      if (wanted.count > 0) {
        FERRITE_RETURN_IF_ERROR(send_(sender_, wanted, per_unit));
        pages += wanted.count;
      }
    }
  }
  for (const PageRange& request : again) {
    const PageRange unit = pending_.ClaimAgain(request.region, request.first);
    if (unit.count > 0) {
      FERRITE_RETURN_IF_ERROR(send_(sender_, unit, unit.count));
      pages += unit.count;
      figures_.resent_pages.fetch_add(unit.count, std::memory_order_relaxed);
    }
  }
  FERRITE_RETURN_IF_ERROR(sender_.Flush());
  figures_.requested_pages.fetch_add(pages, std::memory_order_relaxed);
  return absl::OkStatus();
}

std::vector<PageRange> RequestServer::NeighboursOf(std::span<const PageRange> requests) const {
  std::vector<PageRange> units(requests.begin(), requests.end());
  for (PageRange& unit : units) {
    const uint64_t per_unit = pending_.pages_per_unit(unit.region);
    unit = {.region = unit.region, .first = unit.first / per_unit * per_unit, .count = per_unit};
  }
  std::sort(units.begin(), units.end(), [](const PageRange& a, const PageRange& b) {
    return std::tie(a.region, a.first) < std::tie(b.region, b.first);
  });
  std::vector<PageRange> runs;
  for (const PageRange& unit : units) {
    PageRange* const last = runs.empty() || runs.back().region != unit.region ? nullptr : &runs.back();
    if (last != nullptr && unit.first <= last->first + last->count) {
      last->count = unit.first + unit.count - last->first;
    } else {
      runs.push_back(unit);
    }
  }
  return runs;
}

void RequestServer::Foresee(const PageRange& request) {
  const auto [pages, hit] = shared_.window.OnRequest(request.region, request.first);
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
