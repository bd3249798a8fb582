#include "migration/sending/page_source.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "memory/guest_address.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/request_server.h"

namespace ferrite::migration {
namespace {

// After the switchover bulk data goes in pieces that an asked-for page need not wait for, and few of them at a time
// (PageSink::AwaitPlaced()). Smaller ones cost more: each wakes a thread at either end (docs/performance.md).
constexpr uint64_t kBulkPages = 128;

std::vector<PendingPages::Shape> ShapesOf(std::span<OutgoingPart* const> parts,
                                          std::span<const uint64_t> pages_per_unit) {
  std::vector<PendingPages::Shape> shapes;
  for (const OutgoingPart* part : parts) {
    for (const MachineSpec::Region& region : part->regions()) {
      const uint64_t per_unit = pages_per_unit[shapes.size()];
      // Memory may have huge pages there.
      const uint64_t per_block = region.kind == RegionKind::kRam ? std::max(per_unit, kBlockPages) : per_unit;
      shapes.push_back({.pages = region.bytes / kPageBytes, .pages_per_unit = per_unit, .pages_per_block = per_block});
    }
  }
  return shapes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageSource>> PageSource::Create(const Host& host, std::vector<OutgoingPart*> parts,
                                                               std::span<const uint64_t> pages_per_unit,
                                                               Channels channels, const MoveOptions& options,
                                                               SendFigures& figures,
                                                               std::function<void(const absl::Status&)> on_failure) {
  std::unique_ptr<PageSource> source(new PageSource(host, std::move(parts), pages_per_unit, std::move(channels),
                                                    options, figures, std::move(on_failure)));
  FERRITE_RETURN_IF_ERROR(source->StartThreads());
  return source;
}

PageSource::PageSource(const Host& host, std::vector<OutgoingPart*> parts, std::span<const uint64_t> pages_per_unit,
                       Channels channels, const MoveOptions& options, SendFigures& figures,
                       std::function<void(const absl::Status&)> on_failure)
    : host_(host),
      on_failure_(std::move(on_failure)),
      channels_(std::move(channels)),
      pending_(std::make_shared<PendingPages>(ShapesOf(parts, pages_per_unit))),
      limiter_(options.max_bandwidth),
      postcopy_rate_(options.max_postcopy_bandwidth),
      figures_(figures) {
  for (OutgoingPart* part : parts) {
    const size_t count = part->regions().size();
    for (size_t i = 0; i < count; ++i) {
      const uint64_t pages = pending_->pending(regions_.size()).pages();
      regions_.push_back({.part = part, .index = i, .collected = std::make_unique<PageBitmap>(pages)});
    }
  }
  for (const auto& sink : channels_.page) {
    senders_.push_back(std::make_unique<PageSender>(
        *sink, &limiter_, [this](absl::Duration time) { Rest(time); }, host_.clock, figures_, losses()));
  }
}

PageSource::~PageSource() {
  Shutdown();
  {
    const absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  crew_.reset();
  urgent_threads_.clear();
}

absl::Status PageSource::StartThreads() {
  // Who stops the guest is in no class that waits.
  FERRITE_ASSIGN_OR_RETURN(crew_, Crew::Create(host_.threads, "mig-page", ThreadClass::kBulk, channels_.page.size()));
  // One that started is never the one that there is no room for.
  urgent_threads_.reserve(channels_.urgent.size());
  for (size_t channel = 0; channel < channels_.urgent.size(); ++channel) {
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread, host_.threads.Start(absl::StrCat("mig-urgent-", channel), ThreadClass::kUrgent, [this, channel] {
          Note(CatchOutOfMemory([&] { return ServeRequests(channel); }));
        }));
    urgent_threads_.push_back(std::move(thread));
  }
  return absl::OkStatus();
}

absl::Status PageSource::Start() {
  for (size_t i = 0; i < regions_.size(); ++i) {
    PageBitmap& pending = pending_->pending(i);
    const uint64_t pages = pending.pages();
    PageBitmap skip(pages);
    FERRITE_RETURN_IF_ERROR(regions_[i].part->AddSkipped(regions_[i].index, skip));
    pending.SetRange(0, pages);
    uint64_t page = 0;
    while (const auto first = skip.FindSet(page)) {
      const uint64_t end = skip.FindClear(*first).value_or(pages);
      const PageRange run{.region = static_cast<uint16_t>(i), .first = *first, .count = end - *first};
      FERRITE_RETURN_IF_ERROR(senders_[0]->SendZero(run));
      pending_->Skip(run);
      figures_.skipped_pages += run.count;
      page = end;
      if (page >= pages) {
        break;
      }
    }
  }
  return senders_[0]->Flush();
}

absl::Status PageSource::SendRound(uint32_t number, absl::FunctionRef<bool()> stop, RoundPages pages) {
  pending_->Rewind(pages);
  crew_->Begin([&](size_t channel) {
    absl::Status status = CatchOutOfMemory([&] { return SendShare(channel, number, stop); });
    if (!status.ok()) {
      // The others need not end their round; what they say of that is not why.
      NoteFirst(status);
      Shutdown();
    }
    return status;
  });
  const bool ok = crew_->Await().ok();
  figures_.resent_pages += pending_->TakeResent();
  return ok ? absl::OkStatus() : failure();
}

absl::Status PageSource::SendShare(size_t channel, uint32_t round, absl::FunctionRef<bool()> stop) {
  PageSender& sender = *senders_[channel];
  while (!stop()) {
    const std::optional<PageRange> run = pending_->ClaimNext(kMaxDataPages);
    if (!run.has_value()) {
      break;
    }
    FERRITE_RETURN_IF_ERROR(Send(sender, *run, 1));
  }
  return sender.SendRoundEnd(round);
}

absl::Status PageSource::Send(PageSender& sender, const PageRange& run, uint64_t pages_per_unit) {
  const Region& region = regions_[run.region];
  return region.part->Send(sender, region.index, run, pages_per_unit);
}

Losses PageSource::losses() {
  return {.may_go = channels_.know_lost, .found = [this](const uint8_t* address) { return FoundLost(address); }};
}

absl::StatusOr<PageRange> PageSource::FoundLost(const uint8_t* address) {
  for (size_t i = 0; i < regions_.size(); ++i) {
    const std::optional<PageRange> page = regions_[i].index == 0 ? regions_[i].part->FoundLost(address) : std::nullopt;
    if (page.has_value()) {
      return PageRange{.region = static_cast<uint16_t>(i + page->region), .first = page->first, .count = page->count};
    }
  }
  return absl::InternalError("the host has no page for memory of this process, which is not a lost one of the guest");
}

absl::StatusOr<PageSource::Dirty> PageSource::CollectDirty() {
  Dirty found;
  for (size_t i = 0; i < regions_.size(); ++i) {
    PageBitmap& dirty = *regions_[i].collected;
    dirty.ClearAll();
    FERRITE_RETURN_IF_ERROR(regions_[i].part->CollectDirty(regions_[i].index, dirty));
    found.again_bytes += pending_->Heat(i, dirty) * kPageBytes;
    found.bytes += dirty.Count() * kPageBytes;
    dirty.TakeInto(pending_->pending(i));
  }
  return found;
}

std::vector<PageRange> PageSource::TakeStale() {
  std::vector<PageRange> stale = pending_->TakeStale();
  for (const PageRange& run : stale) {
    figures_.resent_pages += run.count;
  }
  return stale;
}

uint64_t PageSource::PendingBytes() const { return pending_->CountPending() * kPageBytes; }

uint64_t PageSource::PendingBytes(RoundPages pages, uint64_t most) const {
  return pending_->Count(pages, most / kPageBytes) * kPageBytes;
}

void PageSource::LiftLimit() { limiter_.SetRate(0); }

void PageSource::StartPostcopy() {
  pending_->StartUnits();
  limiter_.SetRate(postcopy_rate_);
  {
    const absl::MutexLock lock(&mutex_);
    serving_ = true;
  }
}

void PageSource::StartRest() {
  pending_->OrderByHeat();
  for (const auto& sink : channels_.page) {
    sink->PreferLatency();
  }
  crew_->Begin([this](size_t channel) {
    Note(CatchOutOfMemory([&] { return SendRest(channel); }));
    return absl::OkStatus();
  });
}

absl::Status PageSource::FinishRest() {
  FERRITE_RETURN_IF_ERROR(crew_->Await());
  return failure();
}

absl::Status PageSource::SendRest(size_t channel) {
  PageSender sender(*channels_.page[channel], /*limiter=*/nullptr, /*rest=*/nullptr, host_.clock, figures_, losses());
  PendingPages::Lease lease;
  while (true) {
    // What is claimed goes at once: the guest may wait for it, and the limit is not for that (R5).
    constexpr uint64_t kMost = kBulkPages * kPageBytes;
    Rest(limiter_.Take(kMost, host_.clock.Now()));
    FERRITE_RETURN_IF_ERROR(channels_.page[channel]->AwaitPlaced());
    const std::optional<PageRange> run = pending_->ClaimHottest(lease, kBulkPages);
    if (!run.has_value()) {
      return sender.SendRoundEnd(kLastRound);
    }
    const uint64_t sent_before = sender.sent_bytes();
    FERRITE_RETURN_IF_ERROR(Send(sender, *run, pending_->pages_per_unit(run->region)));
    FERRITE_RETURN_IF_ERROR(sender.Flush());
    // Huge pages are more than was taken, zero pages hardly anything.
    limiter_.Correct(static_cast<int64_t>(sender.sent_bytes() - sent_before) - static_cast<int64_t>(kMost));
  }
}

absl::Status PageSource::ServeRequests(size_t channel) {
  {
    const absl::MutexLock lock(&mutex_);
    const auto has_news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || serving_; };
    mutex_.Await(absl::Condition(&has_news));
    if (ending_) {
      return absl::OkStatus();
    }
  }
  const auto send = [this](PageSender& sender, const PageRange& run, uint64_t pages_per_unit) {
    return Send(sender, run, pages_per_unit);
  };
  return RequestServer(*channels_.urgent[channel], *pending_, limiter_, host_.clock, figures_, losses(), send).Serve();
}

void PageSource::Rest(absl::Duration time) {
  if (time > absl::ZeroDuration()) {
    const TimedMutexLock lock(&shut_down_mutex_);
    shut_down_mutex_.AwaitFor(host_.clock, absl::Condition(&shut_down_), time);
  }
}

void PageSource::NoteFirst(const absl::Status& status) {
  const absl::MutexLock lock(&mutex_);
  failure_.Update(status);
}

absl::Status PageSource::failure() const {
  const absl::MutexLock lock(&mutex_);
  return failure_;
}

void PageSource::Note(const absl::Status& status) {
  if (status.ok()) {
    return;
  }
  NoteFirst(status);
  // What fails after that fails because of it.
  Shutdown();
  on_failure_(failure());
}

void PageSource::Shutdown() {
  for (const auto& sink : channels_.page) {
    sink->Shutdown();
  }
  for (const auto& sink : channels_.urgent) {
    sink->Shutdown();
  }
  // Last: who is held back until then would send unhindered.
  const TimedMutexLock lock(&shut_down_mutex_);
  shut_down_ = true;
}

}  // namespace ferrite::migration
