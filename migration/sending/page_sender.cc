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
    const PageRange piece{.region = run.region, .first = run.first + done, .count = count};
    FERRITE_RETURN_IF_ERROR(read(piece.first, {buffer_[0].bytes, count * kPageBytes}));
    FERRITE_RETURN_IF_ERROR(is_data ? SendData(piece, buffer_[0].bytes)
                                    : SendFrom(piece, buffer_[0].bytes, piece.first, per_unit));
    FERRITE_RETURN_IF_ERROR(Flush());
    done += count;
  }
  return absl::OkStatus();
}

absl::Status PageSender::SendFrom(const PageRange& run, const uint8_t* bytes, uint64_t base_page,
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
        FERRITE_RETURN_IF_ERROR(SendData(part, at_page(first)));
      }
    }
    at = next;
  }
  return absl::OkStatus();
}

absl::Status PageSender::SendData(const PageRange& run, const uint8_t* bytes) {
  FERRITE_RETURN_IF_ERROR(Put([&] { return sink_.Pages(run, {bytes, run.count * kPageBytes}); }));
  figures_.data_pages.fetch_add(run.count, std::memory_order_relaxed);
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
