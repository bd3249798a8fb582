#include "migration/sending/page_source.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/fault_window.h"
#include "migration/sending/untouched.h"

namespace ferrite::migration {
namespace {

// After the switchover bulk data goes in pieces that an asked-for page need not wait for, and through short buffers
// (kPostcopyBufferBytes).
constexpr uint64_t kBulkPages = 32;

}  // namespace

PageSource::PageSource(const Host& host, const GuestMemory& memory, DirtyLog& dirty_log,
                       std::vector<uint64_t> pages_per_unit, std::vector<std::unique_ptr<Stream>> page,
                       std::vector<std::unique_ptr<Stream>> urgent, const MoveOptions& options, SendFigures& figures,
                       std::function<void(const absl::Status&)> on_failure)
    : host_(host),
      memory_(memory),
      dirty_log_(dirty_log),
      pages_per_unit_(pages_per_unit),
      on_failure_(std::move(on_failure)),
      page_(std::move(page)),
      urgent_(std::move(urgent)),
      pending_(std::make_shared<PendingPages>(memory, std::move(pages_per_unit))),
      limiter_(options.max_bandwidth),
      postcopy_rate_(options.max_postcopy_bandwidth),
      figures_(figures) {
  for (const auto& region : memory_.regions()) {
    collected_.push_back(std::make_unique<PageBitmap>(region->pages()));
  }
  for (const auto& stream : page_) {
    senders_.push_back(std::make_unique<PageSender>(*stream, memory_, &limiter_, host_.clock, figures_));
  }
}

PageSource::~PageSource() {
  Shutdown();
  bulk_threads_.clear();
  urgent_threads_.clear();
}

absl::Status PageSource::Start() {
  for (size_t i = 0; i < pending_->regions(); ++i) {
    const MemoryRegion& region = *memory_.regions()[i];
    PageBitmap skip(region.pages());
    FERRITE_RETURN_IF_ERROR(AddUntouchedPages(region, host_.page_map, skip));
    dirty_log_.AddUnneededPages(i, skip);
    pending_->pending(i).SetRange(0, region.pages());
    uint64_t page = 0;
    while (const auto first = skip.FindSet(page)) {
      const uint64_t end = skip.FindClear(*first).value_or(region.pages());
      const PageRange run{.region = static_cast<uint16_t>(i), .first = *first, .count = end - *first};
      FERRITE_RETURN_IF_ERROR(senders_[0]->SendZero(run));
      pending_->pending(i).ClearRange(run.first, run.count);
      pending_->sent(i).SetRange(run.first, run.count);
      figures_.skipped_pages += run.count;
      page = end;
      if (page >= region.pages()) {
        break;
      }
    }
  }
  return senders_[0]->Flush();
}

absl::Status PageSource::SendRound(uint32_t number, const std::function<bool()>& stop) {
  uint64_t twice = 0;
  for (size_t i = 0; i < pending_->regions(); ++i) {
    for (uint64_t word = 0; word < pending_->pending(i).words(); ++word) {
      twice += std::popcount(pending_->pending(i).Word(word) & pending_->sent(i).Word(word));
    }
  }
  figures_.twice_pages += twice;
  pending_->Rewind();
  std::vector<absl::Status> results(senders_.size());
  // One that started is never the one that there is no room for.
  std::vector<Thread> threads;
  threads.reserve(senders_.size());
  absl::Status made;
  // On threads of their own: who stops the guest afterwards is in no class that waits.
  for (size_t channel = 0; channel < senders_.size() && made.ok(); ++channel) {
    absl::StatusOr<Thread> thread =
        host_.threads.Start(absl::StrCat("mig-page-", channel), ThreadClass::kBulk, [&, channel] {
          results[channel] = CatchOutOfMemory([&] { return SendShare(channel, number, stop); });
          if (!results[channel].ok()) {
            Shutdown();
          }
        });
    made = thread.status();
    if (made.ok()) {
      threads.push_back(*std::move(thread));
    } else {
      // The others need not end their round.
      Shutdown();
    }
  }
  threads.clear();
  FERRITE_RETURN_IF_ERROR(made);
  for (const absl::Status& result : results) {
    FERRITE_RETURN_IF_ERROR(result);
  }
  return absl::OkStatus();
}

absl::Status PageSource::SendShare(size_t channel, uint32_t round, const std::function<bool()>& stop) {
  PageSender& sender = *senders_[channel];
  while (!stop()) {
    const std::optional<PageRange> run = pending_->ClaimNext(kMaxDataPages);
    if (!run.has_value()) {
      break;
    }
    FERRITE_RETURN_IF_ERROR(sender.SendRun(*run, 1));
  }
  return sender.SendRoundEnd(round);
}

absl::StatusOr<uint64_t> PageSource::CollectDirty() {
  uint64_t pages = 0;
  for (size_t i = 0; i < pending_->regions(); ++i) {
    PageBitmap& dirty = *collected_[i];
    dirty.ClearAll();
    FERRITE_RETURN_IF_ERROR(dirty_log_.CollectDirty(i, dirty));
    pending_->Heat(i, dirty);
    pages += dirty.Count();
    dirty.TakeInto(pending_->pending(i));
  }
  return pages * kPageBytes;
}

std::vector<PageRange> PageSource::TakeStale() {
  std::vector<PageRange> stale = pending_->TakeStale();
  for (const PageRange& run : stale) {
    figures_.twice_pages += run.count;
  }
  return stale;
}

uint64_t PageSource::PendingBytes() const { return pending_->CountPending() * kPageBytes; }

void PageSource::LiftLimit() { limiter_.SetRate(0); }

absl::Status PageSource::StartPostcopy() {
  pending_->StartUnits();
  limiter_.SetRate(postcopy_rate_);
  urgent_threads_.reserve(urgent_.size());
  bulk_threads_.reserve(page_.size());
  for (size_t channel = 0; channel < urgent_.size(); ++channel) {
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread, host_.threads.Start(absl::StrCat("mig-urgent-", channel), ThreadClass::kUrgent, [this, channel] {
          Note(CatchOutOfMemory([&] { return ServeRequests(channel); }));
        }));
    urgent_threads_.push_back(std::move(thread));
  }
  // Making the order takes milliseconds; the destination loads meanwhile, and may wait for pages.
  pending_->OrderByHeat();
  for (size_t channel = 0; channel < page_.size(); ++channel) {
    page_[channel]->LimitBuffers(kPostcopyBufferBytes);
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread, host_.threads.Start(absl::StrCat("mig-bulk-", channel), ThreadClass::kBulk, [this, channel] {
          Note(CatchOutOfMemory([&] { return SendRest(channel); }));
        }));
    bulk_threads_.push_back(std::move(thread));
  }
  return absl::OkStatus();
}

absl::Status PageSource::FinishPostcopy() {
  bulk_threads_.clear();
  const absl::MutexLock lock(&mutex_);
  return failure_;
}

absl::Status PageSource::SendRest(size_t channel) {
  PageSender sender(*page_[channel], memory_, /*limiter=*/nullptr, host_.clock, figures_);
  while (true) {
    // What is claimed goes at once: the guest may wait for it, and the limit is not for that (R5).
    constexpr uint64_t kMost = kBulkPages * kPageBytes;
    page_[channel]->Rest(host_.clock, limiter_.Take(kMost, host_.clock.Now()));
    const std::optional<PageRange> run = pending_->ClaimHottest(kBulkPages);
    if (!run.has_value()) {
      return sender.SendRoundEnd(kLastRound);
    }
    const uint64_t sent_before = sender.sent_bytes();
    FERRITE_RETURN_IF_ERROR(sender.SendRun(*run, pages_per_unit_[run->region]));
    FERRITE_RETURN_IF_ERROR(sender.Flush());
    // Huge pages are more than was taken, zero pages hardly anything.
    limiter_.Correct(static_cast<int64_t>(sender.sent_bytes() - sent_before) - static_cast<int64_t>(kMost));
  }
}

absl::Status PageSource::ServeRequests(size_t channel) {
  Stream& stream = *urgent_[channel];
  PageSender sender(stream, memory_, /*limiter=*/nullptr, host_.clock, figures_);
  FaultWindow window;
  while (true) {
    std::array<uint8_t, kPageHeaderBytes> bytes;
    if (const absl::Status status = stream.ReadAll(bytes); !status.ok()) {
      // The destination closes the channel when it has everything.
      return absl::IsOutOfRange(status) ? absl::OkStatus() : status;
    }
    FERRITE_ASSIGN_OR_RETURN(const PageHeader request, DecodePageHeader(bytes));
    if (request.type != PageFrameType::kRequest || request.region >= pending_->regions()) {
      return absl::InvalidArgumentError("urgent channel: the destination sent what is no request");
    }
    const uint64_t pages = memory_.regions()[request.region]->pages();
    if (request.first_page >= pages || request.count > pages - request.first_page) {
      return absl::InvalidArgumentError(absl::StrCat("urgent channel: a request for pages ", request.first_page, "+",
                                                     request.count, " outside of region ", request.region));
    }
    const uint64_t per_unit = pages_per_unit_[request.region];
    const uint64_t page = request.first_page;
    if (page / per_unit != (page + request.count - 1) / per_unit) {
      // A destination asks for a host page of its own, which is no larger than a unit.
      return absl::InvalidArgumentError(absl::StrCat("urgent channel: a request for pages ", page, "+", request.count,
                                                     " of region ", request.region, ", which are no one host page"));
    }
    figures_.faults.fetch_add(1, std::memory_order_relaxed);
    const uint64_t hits = window.hits();
    const uint64_t extra = window.OnRequest(request.region, page);
    figures_.prefetch_hits.fetch_add(window.hits() - hits, std::memory_order_relaxed);
    // The page itself leaves before anything else is looked at.
    const PageRange wanted = pending_->ClaimRequested(request.region, page, 0);
    if (wanted.count > 0) {
      FERRITE_RETURN_IF_ERROR(sender.SendRun(wanted, per_unit));
      FERRITE_RETURN_IF_ERROR(sender.Flush());
      figures_.requested_pages.fetch_add(wanted.count, std::memory_order_relaxed);
    }
    // Nobody asked for these: the limit is for them, too.
    if (extra >= per_unit && page + per_unit < pages && limiter_.TryTake(extra * kPageBytes, host_.clock.Now())) {
      const PageRange near = pending_->ClaimRequested(request.region, page + per_unit, extra - per_unit);
      FERRITE_RETURN_IF_ERROR(sender.SendRun(near, per_unit));
      FERRITE_RETURN_IF_ERROR(sender.Flush());
      figures_.prefetched_pages.fetch_add(near.count, std::memory_order_relaxed);
    }
  }
}

void PageSource::Note(const absl::Status& status) {
  if (status.ok()) {
    return;
  }
  absl::Status first;
  {
    const absl::MutexLock lock(&mutex_);
    failure_.Update(status);
    first = failure_;
  }
  // What fails after that fails because of it.
  Shutdown();
  on_failure_(first);
}

void PageSource::Shutdown() {
  for (const auto& stream : page_) {
    stream->Shutdown();
  }
  for (const auto& stream : urgent_) {
    stream->Shutdown();
  }
}

}  // namespace ferrite::migration
