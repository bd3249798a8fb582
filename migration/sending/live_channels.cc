#include "migration/sending/live_channels.h"

#include <algorithm>
#include <utility>

namespace ferrite::migration {

void LiveChannels::Begin() {
  const TimedMutexLock lock(&mutex_);
  begun_ = true;
  for (Channel& channel : channels_) {
    channel.has_thread = true;
  }
}

LiveChannels::Break LiveChannels::Lose(size_t index) {
  const TimedMutexLock lock(&mutex_);
  if (channels_[index].broken) {
    return Break::kKnown;
  }
  if (std::count_if(channels_.begin(), channels_.end(), [](const Channel& one) { return !one.broken; }) == 1) {
    return Break::kLast;
  }
  channels_[index].broken = true;
  return Break::kFirst;
}

LiveChannels::Told LiveChannels::AddMissing(size_t index, std::span<const PageRange> missing, bool last) {
  const TimedMutexLock lock(&mutex_);
  Channel& channel = channels_[index];
  if (channel.told) {
    return Told::kWrong;
  }
  if (channel.missing.empty() && !missing.empty()) {
    channel.missing.reserve(region_pages_.size());
    for (const uint64_t pages : region_pages_) {
      channel.missing.emplace_back(pages);
    }
  }
  for (const PageRange& run : missing) {
    if (run.count > most_pages_ - channel.missing_pages) {
      return Told::kWrong;
    }
    channel.missing_pages += run.count;
    channel.missing[run.region].SetRange(run.first, run.count);
  }
  channel.told = last;
  return MaySettle(index) ? Told::kSettled : Told::kTaken;
}

bool LiveChannels::EndThread(size_t index) {
  const TimedMutexLock lock(&mutex_);
  channels_[index].has_thread = false;
  return MaySettle(index);
}

bool LiveChannels::MaySettle(size_t index) {
  Channel& channel = channels_[index];
  if (!begun_ || !channel.broken || channel.has_thread || !channel.told || channel.settled) {
    return false;
  }
  channel.settled = true;
  TakeBackMissing(index);
  ++returns_;
  return true;
}

void LiveChannels::TakeBackMissing(size_t index) {
  constexpr size_t kAtOnce = 4096;
  const std::vector<PageBitmap> missing = std::exchange(channels_[index].missing, {});
  std::vector<PageRange> runs;
  for (size_t region = 0; region < missing.size(); ++region) {
    const PageBitmap& pages = missing[region];
    for (std::optional<uint64_t> first = pages.FindSet(0); first.has_value();) {
      const uint64_t end = pages.FindClear(*first).value_or(pages.pages());
      runs.push_back({.region = static_cast<uint16_t>(region), .first = *first, .count = end - *first});
      if (runs.size() == kAtOnce) {
        take_back_(index, runs, /*last=*/false);
        runs.clear();
      }
      first = end < pages.pages() ? pages.FindSet(end) : std::nullopt;
    }
  }
  take_back_(index, runs, /*last=*/true);
}

bool LiveChannels::AllSettled() const {
  return std::all_of(channels_.begin(), channels_.end(), [](const Channel& one) { return !one.broken || one.settled; });
}

size_t LiveChannels::living() const {
  const TimedMutexLock lock(&mutex_);
  return static_cast<size_t>(
      std::count_if(channels_.begin(), channels_.end(), [](const Channel& one) { return !one.broken; }));
}

bool LiveChannels::lives(size_t index) const {
  const TimedMutexLock lock(&mutex_);
  return !channels_[index].broken;
}

bool LiveChannels::RestUntil(size_t index, uint64_t seen, const Clock& clock, MonotonicTime until) {
  if (until <= clock.Now()) {
    // Nobody is woken for each claim.
    return returns_ != seen;
  }
  const TimedMutexLock lock(&mutex_);
  const auto has_news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || channels_[index].broken || returns_ != seen;
  };
  mutex_.AwaitUntil(clock, absl::Condition(&has_news), until);
  return !ended_ && !channels_[index].broken && returns_ != seen;
}

bool LiveChannels::AwaitSettled(size_t index, uint64_t seen) {
  const TimedMutexLock lock(&mutex_);
  const auto has_news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || channels_[index].broken || returns_ != seen || AllSettled();
  };
  mutex_.Await(absl::Condition(&has_news));
  return !ended_ && !channels_[index].broken && returns_ != seen;
}

bool LiveChannels::AwaitMore(size_t index, uint64_t seen) {
  const TimedMutexLock lock(&mutex_);
  channels_[index].done_at = seen;
  const auto has_news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || channels_[index].broken || returns_ != seen;
  };
  mutex_.Await(absl::Condition(&has_news));
  return !ended_ && !channels_[index].broken;
}

void LiveChannels::AwaitAll() const {
  const TimedMutexLock lock(&mutex_);
  const auto all_done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t returns = returns_;
    return ended_ || !begun_ ||
           (AllSettled() && std::all_of(channels_.begin(), channels_.end(),
                                        [&](const Channel& one) { return one.broken || one.done_at == returns; }));
  };
  mutex_.Await(absl::Condition(&all_done));
}

void LiveChannels::End() {
  const TimedMutexLock lock(&mutex_);
  ended_ = true;
}

bool LiveChannels::ended() const {
  const TimedMutexLock lock(&mutex_);
  return ended_;
}

}  // namespace ferrite::migration
