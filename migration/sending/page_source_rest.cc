// What PageSource does behind the switchover, when a connection was lost before it, and at its end.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/channel/connection_lost.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/page_source.h"

namespace ferrite::migration {

absl::Status PageSource::TakeBack(WhichParts written) {
  // First: what was written since it was skipped is not told to be zero, but goes.
  FERRITE_RETURN_IF_ERROR(CollectDirty(written).status());
  pending_->TakeBack();
  for (size_t i = 0; i < regions_.size(); ++i) {
    uint64_t from = 0;
    while (const auto run = pending_->LostSkips(static_cast<uint16_t>(i), from)) {
      FERRITE_RETURN_IF_ERROR(TellSkipped(*run));
      from = run->first + run->count;
    }
  }
  return senders_[0]->Flush();
}

absl::Status PageSource::EndRounds() {
  for (const auto& sink : channels_.page) {
    FERRITE_RETURN_IF_ERROR(sink->EndRounds());
  }
  return absl::OkStatus();
}

std::vector<PageRange> PageSource::TakeStale(bool can_be_lost) {
  std::vector<PageRange> stale = pending_->TakeStale(can_be_lost);
  for (const PageRange& run : stale) {
    figures_.resent_pages += run.count;
    if (PartSent* const sent = regions_[run.region].sent; sent != nullptr) {
      sent->again_pages += run.count;
    }
  }
  return stale;
}

void PageSource::HurryOthers(size_t channel) {
  // Where a disk comes along the destination may read nothing for as long as its storage takes.
  const bool mirrors =
      std::any_of(regions_.begin(), regions_.end(), [](const Region& r) { return r.part->mirrored(); });
  if (mirrors || hurried_.exchange(true)) {
    return;
  }
  for (size_t other = 0; other < channels_.page.size(); ++other) {
    if (other != channel) {
      channels_.page[other]->SetPatience(std::min(patience_, kStalled));
    }
  }
}

void PageSource::SetPatience(absl::Duration patience) {
  patience_ = patience;
  for (const auto& sink : channels_.page) {
    sink->SetPatience(patience);
  }
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
  live_.Begin();
  crew_->Begin([this](size_t channel) {
    const absl::Status sent = CatchOutOfMemory([&] { return SendRest(channel); });
    Note(CatchOutOfMemory([&] { return EndRest(channel, sent); }));
    return absl::OkStatus();
  });
}

absl::Status PageSource::FinishRest() {
  live_.AwaitAll();
  if (live_.ended()) {
    // Nobody sends behind this.
    FERRITE_RETURN_IF_ERROR(crew_->Await());
  }
  return failure();
}

absl::Status PageSource::SendRest(size_t channel) {
  PageSender sender(*channels_.page[channel], /*limiter=*/nullptr, /*rest=*/nullptr, host_.clock, figures_, losses());
  PendingPages::Lease lease{.owner = channel, .rest = {}};
  std::optional<MonotonicTime> from;  // when what the limit allows next may go
  bool has_ended = false;             // nothing went since ROUND
  if (channel >= turns_->used()) {
    // One more brings nothing but longer queues. It is there for what another one loses.
    const uint64_t seen = live_.returns();
    FERRITE_RETURN_IF_ERROR(sender.SendRoundEnd(kLastRound));
    has_ended = true;
    if (!live_.AwaitMore(channel, seen)) {
      return absl::OkStatus();
    }
  }
  while (true) {
    const uint64_t seen = live_.returns();
    // What was lost with another channel, and somebody waits for (R5).
    while (const std::optional<PageRange> unit = pending_->ClaimAwaited(channel)) {
      has_ended = false;
      FERRITE_RETURN_IF_ERROR(Send(sender, *unit, unit->count));
      FERRITE_RETURN_IF_ERROR(sender.Flush());
    }
    // What is claimed goes at once: the guest may wait for it, and the limit is not for that (R5).
    constexpr uint64_t kMost = BulkSize::kMost * kPageBytes;
    if (!from.has_value()) {
      const MonotonicTime now = host_.clock.Now();
      from = now + limiter_.Take(kMost, now);
    }
    if (live_.RestUntil(channel, seen, host_.clock, *from)) {
      continue;
    }
    if (!live_.lives(channel)) {
      return absl::UnavailableError("the channel broke");
    }
    from.reset();
    FERRITE_RETURN_IF_ERROR(channels_.page[channel]->AwaitPlaced(bulk_size_.pages() * kPageBytes));
    urgent_.first.LetPass(host_.clock);
    const std::optional<PageRange> run = pending_->ClaimHottest(lease, bulk_size_.pages());
    if (!run.has_value()) {
      limiter_.Correct(-static_cast<int64_t>(kMost));
      if (live_.AwaitSettled(channel, seen)) {
        continue;
      }
      // Once behind what went: a destination that has all reads no more than that.
      if (!std::exchange(has_ended, true)) {
        FERRITE_RETURN_IF_ERROR(sender.SendRoundEnd(kLastRound));
      }
      if (!live_.AwaitMore(channel, seen)) {
        return absl::OkStatus();
      }
      continue;
    }
    has_ended = false;
    const uint64_t sent_before = sender.sent_bytes();
    FERRITE_RETURN_IF_ERROR(Send(sender, *run, pending_->pages_per_unit(run->region)));
    FERRITE_RETURN_IF_ERROR(sender.Flush());
    bulk_size_.Sent(channels_.page[channel]->QueueDelay(), figures_.bytes);
    // Huge pages are more than was taken, zero pages hardly anything.
    limiter_.Correct(static_cast<int64_t>(sender.sent_bytes() - sent_before) - static_cast<int64_t>(kMost));
  }
}

absl::Status PageSource::EndRest(size_t channel, const absl::Status& status) {
  const bool may_break = IsConnectionLost(status) && channels_.tell_broken != nullptr;
  if (!status.ok() && !(may_break && BreaksAlone(channel, status, /*told=*/false))) {
    return status;
  }
  if (live_.EndThread(channel)) {
    GoOnWithout(channel);
  }
  return absl::OkStatus();
}

bool PageSource::BreaksAlone(size_t channel, const absl::Status& why, bool told) {
  if (live_.ended()) {
    return false;
  }
  const LiveChannels::Break broke = live_.Lose(channel);
  if (broke == LiveChannels::Break::kFirst) {
    channels_.page[channel]->Shutdown();
    {
      const absl::MutexLock lock(&mutex_);
      broken_[channel] = why;
    }
    if (!told) {
      channels_.tell_broken(channel);
    }
  }
  return broke != LiveChannels::Break::kLast;
}

void PageSource::GoOnWithout(size_t channel) {
  absl::Status why;
  {
    const absl::MutexLock lock(&mutex_);
    why = broken_[channel];
  }
  ++figures_.broken_channels;
  channels_.on_fewer(channel, live_.living(), why);
}

absl::Status PageSource::OnBroken(size_t channel, std::span<const PageRange> missing, bool last) {
  const auto wrong = [channel](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("BROKEN: page channel ", channel, what));
  };
  {
    const absl::MutexLock lock(&mutex_);
    if (!serving_ || channels_.tell_broken == nullptr) {
      return wrong(", before the guest was handed over");
    }
  }
  if (channel >= channels_.page.size()) {
    return wrong(", which there is not");
  }
  for (const PageRange& run : missing) {
    if (!pending_->Contains(run) || pending_->mirrored(run.region)) {
      return wrong(" misses what is no memory");
    }
  }
  if (!last && missing.empty()) {
    return wrong(": nothing in it, and not the last one");
  }
  if (!BreaksAlone(channel, absl::UnavailableError("the destination lost it"), /*told=*/true)) {
    Note(absl::UnavailableError("the destination has lost the last page channel"));
    return absl::OkStatus();
  }
  switch (live_.AddMissing(channel, missing, last)) {
    case LiveChannels::Told::kTaken:
      break;
    case LiveChannels::Told::kSettled:
      GoOnWithout(channel);
      break;
    case LiveChannels::Told::kWrong:
      return wrong(" is told of twice");
  }
  return absl::OkStatus();
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
  live_.End();
  // Last: who is held back until then would send unhindered.
  const TimedMutexLock lock(&shut_down_mutex_);
  shut_down_ = true;
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
  return RequestServer(*channels_.urgent[channel], *pending_, urgent_, limiter_, host_.clock, figures_, losses(), send)
      .Serve();
}

}  // namespace ferrite::migration
