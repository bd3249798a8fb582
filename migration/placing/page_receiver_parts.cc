// What PageReceiver does with units that are larger than a frame, and with pages that came from outside.
#include <span>

#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/placing/page_receiver.h"

namespace ferrite::migration {

absl::StatusOr<uint64_t> PageReceiver::Written(const PageRange& rest) {
  if (live_) {
    return absl::InvalidArgumentError("page frame: memory of a guest that runs cannot be written from outside");
  }
  FERRITE_RETURN_IF_ERROR(placer_->Written({.first = rest.first, .count = rest.count}));
  placement_.doubtful().Settle(rest);
  figures_.pages.fetch_add(rest.count, std::memory_order_relaxed);
  return rest.count;
}

absl::StatusOr<PageHandler::Target> PageReceiver::NextPart(Placer& placer, PageRun rest) {
  OpenUnit& open = *open_;
  if (open.next != rest.first || rest.count > open.unit.first + open.unit.count - open.next) {
    return absl::InvalidArgumentError("page frame: a huge page is not sent in order");
  }
  if (!open.claimed) {
    return Target{.pages = rest.count, .bytes = {}};
  }
  FERRITE_ASSIGN_OR_RETURN(const std::span<uint8_t> unit, placer.StageTarget(open.unit, Showing::kAtOnce));
  if (unit.empty()) {
    return absl::InternalError("a unit that is larger than a frame has no place to gather in");
  }
  return Target{.pages = rest.count,
                .bytes = unit.subspan((open.next - open.unit.first) * kPageBytes, rest.count * kPageBytes)};
}

absl::Status PageReceiver::FilledPart(Placer& placer, PageRun run) {
  open_->next += run.count;
  open_->gone = open_->gone || IsGone(run);
  gone_.clear();
  if (open_->next < open_->unit.first + open_->unit.count) {
    return absl::OkStatus();
  }
  const OpenUnit done = *open_;
  open_.reset();
  (done.claimed ? figures_.pages : figures_.duplicate_pages).fetch_add(done.unit.count, std::memory_order_relaxed);
  if (!done.claimed) {
    return absl::OkStatus();
  }
  if (done.gone) {
    placer.Abandon(done.unit);
    return placer.PublishPoison(done.unit).status();
  }
  return placer.Publish(done.unit, nullptr);
}

}  // namespace ferrite::migration
