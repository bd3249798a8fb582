#include "migration/sending/page_source.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "memory/guest_address.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {
namespace {

// Of a mirrored part, what is skipped in a piece, 64 MiB: to have it zero may take storage as long as to write it, and
// nothing else is read from the channel meanwhile.
constexpr uint64_t kSkippedPages = uint64_t{1} << 14;

std::vector<PendingPages::Shape> ShapesOf(std::span<OutgoingPart* const> parts,
                                          std::span<const uint64_t> pages_per_unit) {
  std::vector<PendingPages::Shape> shapes;
  for (const OutgoingPart* part : parts) {
    for (const MachineSpec::Region& region : part->regions()) {
      const uint64_t per_unit = pages_per_unit[shapes.size()];
      // Memory may have huge pages there.
      const uint64_t per_block = region.kind == RegionKind::kRam ? std::max(per_unit, kBlockPages) : per_unit;
      shapes.push_back({.pages = region.bytes / kPageBytes,
                        .pages_per_unit = per_unit,
                        .pages_per_block = per_block,
                        .mirrored = part->mirrored()});
    }
  }
  return shapes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageSource>> PageSource::Create(const Host& host, std::vector<OutgoingPart*> parts,
                                                               std::span<const uint64_t> pages_per_unit,
                                                               Channels channels, const MoveOptions& options,
                                                               SendFigures& figures,
                                                               std::function<void(const absl::Status&)> on_failure,
                                                               Pending pending) {
  std::unique_ptr<PageSource> source(new PageSource(host, std::move(parts), pages_per_unit, std::move(channels),
                                                    options, figures, std::move(on_failure), std::move(pending)));
  FERRITE_RETURN_IF_ERROR(source->StartThreads());
  return source;
}

PageSource::PageSource(const Host& host, std::vector<OutgoingPart*> parts, std::span<const uint64_t> pages_per_unit,
                       Channels channels, const MoveOptions& options, SendFigures& figures,
                       std::function<void(const absl::Status&)> on_failure, Pending pending)
    : host_(host),
      on_failure_(std::move(on_failure)),
      channels_(std::move(channels)),
      pending_(pending.pages != nullptr
                   ? std::move(pending.pages)
                   : std::make_shared<PendingPages>(ShapesOf(parts, pages_per_unit), pending.can_be_lost)),
      limiter_(options.max_bandwidth),
      postcopy_rate_(options.max_postcopy_bandwidth),
      patience_(std::max(options.silence, options.patience)),
      figures_(figures),
      turns_(channels_.turns != nullptr
                 ? channels_.turns
                 : std::make_shared<ChannelTurns>(host.clock, channels_.page.size(), /*counted=*/false)),
      claim_sizes_(channels_.page.size()),
      bulk_size_(host.clock, channels_.page.size()),
      broken_(channels_.page.size()),
      live_(channels_.page.size(), pending_->region_pages(),
            [this](size_t channel, std::span<const PageRange> missing, bool last) {
              figures_.resent_pages += pending_->TakeBackFrom(channel, missing, last);
            }) {
  size_t number = 0;
  for (OutgoingPart* part : parts) {
    const size_t count = part->regions().size();
    PartSent* const sent = number > 0 && number <= figures.further.size() ? &figures.further[number - 1] : nullptr;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t pages = pending_->pending(regions_.size()).pages();
      regions_.push_back({.part = part, .index = i, .collected = std::make_unique<PageBitmap>(pages), .sent = sent});
    }
    ++number;
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

absl::Status PageSource::Start(WhichParts parts) {
  std::vector<PageRange> skipped;
  for (size_t i = 0; i < regions_.size(); ++i) {
    if (!Has(parts, pending_->mirrored(i))) {
      continue;
    }
    PageBitmap& pending = pending_->pending(i);
    const uint64_t pages = pending.pages();
    PageBitmap skip(pages);
    FERRITE_RETURN_IF_ERROR(regions_[i].part->AddSkipped(regions_[i].index, skip));
    pending.SetRange(0, pages);
    const uint64_t most = pending_->mirrored(i) ? kSkippedPages : pages;
    for (std::optional<uint64_t> first = skip.FindSet(0); first.has_value();) {
      // Once for all its pieces: a hole may be most of a large disk.
      const uint64_t end = skip.FindClear(*first).value_or(pages);
      for (uint64_t at = *first; at < end; at += skipped.back().count) {
        skipped.push_back({.region = static_cast<uint16_t>(i), .first = at, .count = std::min(most, end - at)});
        pending_->Skip(skipped.back());
        figures_.skipped_pages += skipped.back().count;
      }
      first = end < pages ? skip.FindSet(end) : std::nullopt;
    }
  }
  // All are noted before any is told: what is lost is taken back.
  for (const PageRange& run : skipped) {
    FERRITE_RETURN_IF_ERROR(TellSkipped(run));
  }
  return senders_[0]->Flush();
}

absl::Status PageSource::TellSkipped(const PageRange& run) {
  told_skipped_ = true;
  const bool mirrored = pending_->mirrored(run.region);
  figures_.mirrored_pages += mirrored ? run.count : 0;
  if (regions_[run.region].sent != nullptr) {
    regions_[run.region].sent->zero_pages += run.count;
  }
  return senders_[0]->SendZero(run);
}

absl::Status PageSource::SendRound(uint32_t number, absl::FunctionRef<bool()> stop, RoundPages pages,
                                   WhichParts parts) {
  pending_->Rewind(pages, parts);
  turns_->Begin(/*counts=*/parts != WhichParts::kMirrored);
  crew_->Begin([&](size_t channel) {
    absl::Status status = CatchOutOfMemory([&] { return SendShare(channel, number, stop); });
    if (!status.ok()) {
      // The others need not end their round; what they say of that is not why.
      NoteFirst(status);
      Shutdown();
      turns_->End();
    }
    return status;
  });
  const bool ok = crew_->Await().ok();
  if (hurried_.exchange(false)) {
    SetPatience(patience_);
  }
  CountResent();
  told_skipped_ = told_skipped_ && !ok;
  return ok ? absl::OkStatus() : failure();
}

void PageSource::CountResent() {
  for (size_t i = 0; i < regions_.size(); ++i) {
    const uint64_t resent = pending_->TakeResent(i);
    figures_.resent_pages += resent;
    if (regions_[i].sent != nullptr) {
      regions_[i].sent->again_pages += resent;
    }
  }
}

absl::Status PageSource::SendShare(size_t channel, uint32_t round, absl::FunctionRef<bool()> stop) {
  PageSender& sender = *senders_[channel];
  bool all_claimed = false;
  while (turns_->Await(channel) && !stop()) {
    // One alone holds up nobody; small claims would only make it wait for processors the more often.
    ClaimSize* const size = turns_->in_round() > 1 ? &claim_sizes_[channel] : nullptr;
    const std::optional<PageRange> run = pending_->ClaimNext(size != nullptr ? size->pages() : kMaxDataPages);
    all_claimed = !run.has_value();
    if (all_claimed) {
      break;
    }
    const MonotonicTime start = host_.clock.Now();
    const uint64_t data_pages = sender.data_pages();
    const uint64_t bytes = sender.put_bytes();
    FERRITE_RETURN_IF_ERROR(Send(sender, *run, 1));
    if (size != nullptr) {
      if (size->goes_at_once()) {
        FERRITE_RETURN_IF_ERROR(sender.Flush());
      }
      size->Sent(run->count, host_.clock.Now() - start);
    }
    turns_->Sent(run->count, sender.data_pages() - data_pages, sender.put_bytes() - bytes);
  }
  turns_->End();
  FERRITE_RETURN_IF_ERROR(sender.SendRoundEnd(round));
  if (all_claimed) {
    HurryOthers(channel);
  }
  return absl::OkStatus();
}

absl::Status PageSource::Send(PageSender& sender, const PageRange& run, uint64_t pages_per_unit) {
  const Region& region = regions_[run.region];
  const bool mirrored = pending_->mirrored(run.region);
  if (mirrored) {
    // Before it is sent: who counts the others' meanwhile never finds more than these.
    figures_.mirrored_pages.fetch_add(run.count, std::memory_order_relaxed);
  }
  const uint64_t bytes = sender.put_bytes();
  const uint64_t data_pages = sender.data_pages();
  const uint64_t zero_pages = sender.zero_pages();
  FERRITE_RETURN_IF_ERROR(region.part->Send(sender, region.index, run, pages_per_unit));
  if (mirrored) {
    figures_.mirrored_bytes.fetch_add(sender.put_bytes() - bytes, std::memory_order_relaxed);
  }
  if (region.sent != nullptr) {
    region.sent->data_pages.fetch_add(sender.data_pages() - data_pages, std::memory_order_relaxed);
    region.sent->zero_pages.fetch_add(sender.zero_pages() - zero_pages, std::memory_order_relaxed);
  }
  return absl::OkStatus();
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

absl::StatusOr<PageSource::Dirty> PageSource::CollectDirty(WhichParts parts) {
  FERRITE_CHECK(!told_skipped_);
  Dirty found;
  for (size_t i = 0; i < regions_.size(); ++i) {
    const bool mirrored = pending_->mirrored(i);
    if (!Has(parts, mirrored)) {
      continue;
    }
    PageBitmap& dirty = *regions_[i].collected;
    dirty.ClearAll();
    FERRITE_RETURN_IF_ERROR(regions_[i].part->CollectDirty(regions_[i].index, dirty));
    found.again_bytes += pending_->Heat(i, dirty) * kPageBytes;
    (mirrored ? found.mirrored_bytes : found.bytes) += dirty.Count() * kPageBytes;
    dirty.TakeInto(pending_->pending(i));
  }
  return found;
}

uint64_t PageSource::PendingBytes(const OutgoingPart& part) const {
  uint64_t bytes = 0;
  for (size_t i = 0; i < regions_.size(); ++i) {
    bytes += regions_[i].part == &part ? pending_->pending(i).Count() * kPageBytes : 0;
  }
  return bytes;
}

uint64_t PageSource::PendingBytes(RoundPages pages, uint64_t most) const {
  return pending_->Count(pages, most / kPageBytes) * kPageBytes;
}

void PageSource::Rest(absl::Duration time) {
  if (time > absl::ZeroDuration()) {
    const TimedMutexLock lock(&shut_down_mutex_);
    shut_down_mutex_.AwaitFor(host_.clock, absl::Condition(&shut_down_), time);
  }
}

}  // namespace ferrite::migration
