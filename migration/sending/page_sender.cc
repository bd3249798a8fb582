#include "migration/sending/page_sender.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/zero_page.h"

namespace ferrite::migration {
namespace {

absl::Status NotKnown() {
  return absl::FailedPreconditionError(
      "the host lost a page of the guest, and the other side's ferrite knows no lost pages");
}

absl::Status NotOfTheGuest() {
  return absl::InternalError("the host has no page for memory of this process, which is not a lost one of the guest");
}

}  // namespace

PageRange UnitsLostWith(const PageRange& page, uint64_t pages_per_unit) {
  return {.region = page.region,
          .first = page.first / pages_per_unit * pages_per_unit,
          .count = std::max(page.count, pages_per_unit)};
}

PageSender::PageSender(PageSink& sink, RateLimiter* limiter, Rest rest, const Clock& clock, SendFigures& figures,
                       Losses losses)
    : sink_(sink),
      limiter_(limiter),
      rest_(std::move(rest)),
      clock_(clock),
      figures_(figures),
      losses_(std::move(losses)) {
  sink_.SetFinder([this](const uint8_t* address) -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(const PageRange page, Find(address));
    found_.push_back({.address = address, .page = page});
    return absl::OkStatus();
  });
}

PageSender::~PageSender() { sink_.SetFinder(nullptr); }

absl::StatusOr<uint64_t> PageSender::SendRun(const PageRange& run, std::span<const uint8_t> region,
                                             uint64_t pages_per_unit) {
  return SendFrom(run, region.data(), /*base_page=*/0, pages_per_unit);
}

absl::Status PageSender::SendRead(const PageRange& run, uint64_t pages_per_unit,
                                  absl::FunctionRef<absl::Status(uint64_t first, std::span<uint8_t> into)> read) {
  // A unit that is larger than a frame is read in pieces, so that nobody can tell whether all of it is zero.
  const bool is_data = pages_per_unit > kMaxDataPages;
  const uint64_t per_unit = is_data ? 1 : pages_per_unit;
  if (buffer_ == nullptr) {
    buffer_ = std::make_unique<Page[]>(kMaxDataPages);
  }
  for (uint64_t done = 0; done < run.count;) {
    const uint64_t count = std::min<uint64_t>(run.count - done, kMaxDataPages / per_unit * per_unit);
    if (count > kMaxDataPages - buffered_) {
      FERRITE_RETURN_IF_ERROR(Flush());
    }
    const PageRange piece{.region = run.region, .first = run.first + done, .count = count};
    const uint64_t end = buffered_ + count;
    uint8_t* const bytes = buffer_[buffered_].bytes;
    FERRITE_RETURN_IF_ERROR(read(piece.first, {bytes, count * kPageBytes}));
    // These bytes are our own: none of them is lost.
    FERRITE_RETURN_IF_ERROR(is_data ? SendData(piece, bytes).status()
                                    : SendFrom(piece, bytes, piece.first, per_unit).status());
    // What was full on the way has left, and the rest of this piece has not.
    buffered_ = sink_.gathered_bytes() > 0 ? end : 0;
    done += count;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PageSender::SendFrom(const PageRange& run, const uint8_t* bytes, uint64_t base_page,
                                              uint64_t pages_per_unit) {
  const auto at_page = [&](uint64_t page) { return bytes + (page - base_page) * kPageBytes; };
  const auto is_zero = [&](uint64_t first) {
    for (uint64_t page = first; page < first + pages_per_unit; ++page) {
      if (!IsZeroPage(at_page(page))) {
        return false;
      }
    }
    return true;
  };
  pages_per_unit_ = pages_per_unit;
  uint64_t end = run.first + run.count;  // a lost unit comes to be there
  uint64_t at = run.first;
  // What is sent from `at` on ends in front of the unit of `address`.
  const auto end_before = [&](uintptr_t address) -> absl::Status {
    const uint64_t page = (address - reinterpret_cast<uintptr_t>(bytes)) / kPageBytes + base_page;
    if (page < at || page >= end) {
      return NotOfTheGuest();
    }
    end = page / pages_per_unit * pages_per_unit;
    return absl::OkStatus();
  };
  while (at < end) {
    bool zero = false;
    uint64_t next = 0;
    const std::optional<uintptr_t> hit = TouchMemory([&] {
      zero = is_zero(at);
      next = at + pages_per_unit;
      // Data is cut at the largest frame while it is scanned: it goes out while it is in the cache.
      const uint64_t limit = zero ? end : std::min(end, at + std::max<uint64_t>(kMaxDataPages, pages_per_unit));
      while (next < limit && is_zero(next) == zero) {
        next += pages_per_unit;
      }
    });
    if (hit.has_value()) {
      FERRITE_RETURN_IF_ERROR(end_before(*hit));
      FERRITE_RETURN_IF_ERROR(Find(reinterpret_cast<const uint8_t*>(*hit)).status());
      continue;
    }
    if (zero) {
      FERRITE_RETURN_IF_ERROR(SendZero({.region = run.region, .first = at, .count = next - at}));
      at = next;
      continue;
    }
    // A unit that is larger than a frame goes as consecutive frames of one channel. One that turns out to be lost in
    // the middle of them goes as lost behind them.
    std::optional<uintptr_t> lost;
    in_unit_ = true;
    const absl::Cleanup end_unit = [this] { in_unit_ = false; };
    for (uint64_t first = at; first < next && !lost.has_value(); first += kMaxDataPages) {
      const PageRange part{
          .region = run.region, .first = first, .count = std::min<uint64_t>(kMaxDataPages, next - first)};
      FERRITE_ASSIGN_OR_RETURN(lost, SendData(part, at_page(first)));
    }
    if (lost.has_value()) {
      FERRITE_RETURN_IF_ERROR(end_before(*lost));
    } else {
      at = next;
    }
  }
  return at - run.first;
}

absl::StatusOr<std::optional<uintptr_t>> PageSender::SendData(const PageRange& run, const uint8_t* bytes) {
  const absl::Status status = Put([&] { return sink_.Pages(run, {bytes, run.count * kPageBytes}); });
  if (absl::IsDataLoss(status) && !found_.empty()) {
    const auto address = reinterpret_cast<uintptr_t>(found_.back().address);
    found_.pop_back();
    return address;
  }
  FERRITE_RETURN_IF_ERROR(status);
  figures_.data_pages.fetch_add(run.count, std::memory_order_release);
  data_pages_ += run.count;
  return std::nullopt;
}

absl::Status PageSender::SendZero(const PageRange& run) {
  constexpr uint64_t kMost = UINT32_MAX;
  for (uint64_t done = 0; done < run.count; done += kMost) {
    const uint64_t count = std::min(kMost, run.count - done);
    FERRITE_RETURN_IF_ERROR(
        Put([&] { return sink_.Zero({.region = run.region, .first = run.first + done, .count = count}); }));
    figures_.zero_pages.fetch_add(count, std::memory_order_release);
    zero_pages_ += count;
  }
  return absl::OkStatus();
}

absl::Status PageSender::SendLost(const PageRange& run, const PageRange& page) {
  if (!losses_.may_go) {
    return NotKnown();
  }
  FERRITE_RETURN_IF_ERROR(Put([&] { return sink_.Lost(run); }));
  figures_.lost.Add(page);
  return absl::OkStatus();
}

absl::Status PageSender::SendRoundEnd(uint32_t number) {
  // What is found to be lost is of this round, too.
  FERRITE_RETURN_IF_ERROR(Flush());
  FERRITE_RETURN_IF_ERROR(Put([&] { return sink_.EndRound(number); }));
  // A round lasts until the limit allows all that it sent: by its time the rate is measured.
  return FlushGathered();
}

absl::Status PageSender::Put(absl::FunctionRef<absl::Status()> put) {
  FERRITE_RETURN_IF_ERROR(put());
  return sink_.full() ? Flush() : absl::OkStatus();
}

absl::Status PageSender::Flush() {
  do {
    FERRITE_RETURN_IF_ERROR(FlushGathered());
    if (in_unit_) {
      // Its frames come one after the other.
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(SendFound());
  } while (sink_.gathered_bytes() > 0);
  return absl::OkStatus();
}

absl::Status PageSender::FlushGathered() {
  const uint64_t bytes = sink_.gathered_bytes();
  if (bytes == 0) {
    buffered_ = 0;
    return absl::OkStatus();
  }
  if (limiter_ != nullptr) {
    // A cancel shuts the channels down, and ends the waiting and the write that follows.
    rest_(limiter_->Take(bytes, clock_.Now()));
  }
  const absl::Status status = sink_.Flush();
  buffered_ = 0;
  figures_.bytes.fetch_add(bytes, std::memory_order_relaxed);
  sent_bytes_ += bytes;
  return status;
}

absl::StatusOr<PageRange> PageSender::Find(const uint8_t* address) const {
  return losses_.found != nullptr ? losses_.found(address) : NotOfTheGuest();
}

absl::Status PageSender::SendFound() {
  for (const Found& found : std::exchange(found_, {})) {
    FERRITE_RETURN_IF_ERROR(SendLost(UnitsLostWith(found.page, pages_per_unit_), found.page));
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
