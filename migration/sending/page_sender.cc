#include "migration/sending/page_sender.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/zero_page.h"

namespace ferrite::migration {

PageSender::PageSender(PageSink& sink, RateLimiter* limiter, Rest rest, const Clock& clock, SendFigures& figures)
    : sink_(sink), limiter_(limiter), rest_(std::move(rest)), clock_(clock), figures_(figures) {}

absl::Status PageSender::SendRun(const PageRange& run, std::span<const uint8_t> region, uint64_t pages_per_unit) {
  const uint8_t* const base = region.data();
  const auto is_zero = [&](uint64_t first) {
    for (uint64_t page = first; page < first + pages_per_unit; ++page) {
      if (!IsZeroPage(base + page * kPageBytes)) {
        return false;
      }
    }
    return true;
  };
  const uint64_t end = run.first + run.count;
  uint64_t at = run.first;
  while (at < end) {
    const bool zero = is_zero(at);
    uint64_t next = at + pages_per_unit;
    // Data is cut at the largest frame while it is scanned: it goes out while it is in the cache.
    const uint64_t limit = zero ? end : std::min(end, at + std::max<uint64_t>(kMaxDataPages, pages_per_unit));
    while (next < limit && is_zero(next) == zero) {
      next += pages_per_unit;
    }
    if (zero) {
      FERRITE_RETURN_IF_ERROR(SendZero({.region = run.region, .first = at, .count = next - at}));
    } else {
      // A unit that is larger than a frame goes as consecutive frames of one channel.
      for (uint64_t first = at; first < next; first += kMaxDataPages) {
        const PageRange part{
            .region = run.region, .first = first, .count = std::min<uint64_t>(kMaxDataPages, next - first)};
        FERRITE_RETURN_IF_ERROR(Put([&] {
          return sink_.Pages(part, {base + first * kPageBytes, part.count * kPageBytes});
        }));
        figures_.data_pages.fetch_add(part.count, std::memory_order_relaxed);
      }
    }
    at = next;
  }
  return absl::OkStatus();
}

absl::Status PageSender::SendZero(const PageRange& run) {
  constexpr uint64_t kMost = UINT32_MAX;
  for (uint64_t done = 0; done < run.count; done += kMost) {
    const uint64_t count = std::min(kMost, run.count - done);
    FERRITE_RETURN_IF_ERROR(
        Put([&] { return sink_.Zero({.region = run.region, .first = run.first + done, .count = count}); }));
    figures_.zero_pages.fetch_add(count, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::Status PageSender::SendRoundEnd(uint32_t number) {
  FERRITE_RETURN_IF_ERROR(Put([&] { return sink_.EndRound(number); }));
  return Flush();
}

absl::Status PageSender::Put(absl::FunctionRef<absl::Status()> put) {
  FERRITE_RETURN_IF_ERROR(put());
  return sink_.full() ? Flush() : absl::OkStatus();
}

absl::Status PageSender::Flush() {
  const uint64_t bytes = sink_.gathered_bytes();
  if (bytes == 0) {
    return absl::OkStatus();
  }
  if (limiter_ != nullptr) {
    // A cancel shuts the channels down, and ends the waiting and the write that follows.
    rest_(limiter_->Take(bytes, clock_.Now()));
  }
  const absl::Status status = sink_.Flush();
  figures_.bytes.fetch_add(bytes, std::memory_order_relaxed);
  sent_bytes_ += bytes;
  return status;
}

}  // namespace ferrite::migration
