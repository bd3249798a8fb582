#include "migration/sending/page_sender.h"

#include <algorithm>

#include "base/status.h"
#include "migration/sending/zero_page.h"

namespace ferrite::migration {

PageSender::PageSender(Stream& stream, const GuestMemory& memory, RateLimiter* limiter, const Clock& clock,
                       SendFigures& figures)
    : stream_(stream), memory_(memory), limiter_(limiter), clock_(clock), figures_(figures) {
  pieces_.reserve(2 * kMaxFrames);
}

absl::Status PageSender::SendRun(const PageRange& run, uint64_t pages_per_unit) {
  const uint8_t* const base = memory_.regions()[run.region]->guest_mapping().data();
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
        const PageHeader header{.type = PageFrameType::kPages,
                                .region = run.region,
                                .first_page = first,
                                .count = static_cast<uint32_t>(std::min<uint64_t>(kMaxDataPages, next - first))};
        FERRITE_RETURN_IF_ERROR(Add(header, base + first * kPageBytes));
        figures_.data_pages.fetch_add(header.count, std::memory_order_relaxed);
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
    FERRITE_RETURN_IF_ERROR(Add({.type = PageFrameType::kZero,
                                 .region = run.region,
                                 .first_page = run.first + done,
                                 .count = static_cast<uint32_t>(count)},
                                nullptr));
    figures_.zero_pages.fetch_add(count, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::Status PageSender::SendRoundEnd(uint32_t number) {
  FERRITE_RETURN_IF_ERROR(Add({.type = PageFrameType::kRound, .count = number}, nullptr));
  return Flush();
}

absl::Status PageSender::Add(const PageHeader& header, const uint8_t* data) {
  headers_[frames_] = EncodePageHeader(header);
  pieces_.push_back({.iov_base = headers_[frames_].data(), .iov_len = kPageHeaderBytes});
  ++frames_;
  if (data != nullptr) {
    pieces_.push_back({.iov_base = const_cast<uint8_t*>(data), .iov_len = header.data_bytes()});
  }
  gathered_ += kPageHeaderBytes + header.data_bytes();
  return frames_ == kMaxFrames || gathered_ >= kFlushBytes ? Flush() : absl::OkStatus();
}

absl::Status PageSender::Flush() {
  if (frames_ == 0) {
    return absl::OkStatus();
  }
  if (limiter_ != nullptr) {
    // A cancel shuts the stream down, and ends the waiting and the write that follows.
    stream_.Rest(clock_, limiter_->Take(gathered_, clock_.Now()));
  }
  const absl::Status status = stream_.WriteAll(std::span<iovec>(pieces_));
  figures_.bytes.fetch_add(gathered_, std::memory_order_relaxed);
  sent_bytes_ += gathered_;
  pieces_.clear();
  frames_ = 0;
  gathered_ = 0;
  return status;
}

}  // namespace ferrite::migration
