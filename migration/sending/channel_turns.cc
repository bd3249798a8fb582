#include "migration/sending/channel_turns.h"

#include <algorithm>

namespace ferrite::migration {

void ChannelTurns::Begin(bool counts) {
  const TimedMutexLock lock(&mutex_);
  const MonotonicTime now = clock_.Now();
  part_.paused += now - ended_;
  if (!counts || !counts_ || part_.paused > kPause) {
    // Who is behind a pause fills the buffers again.
    settles_ = true;
    part_ = {.start = now};
  }
  over_ = false;
  counts_ = counts;
  all_ = !counts;
  measures_ = counted_ && counts && !count_.is_found();
}

bool ChannelTurns::Await(size_t channel) {
  if (all_ || channel < used_) {
    return true;
  }
  const auto has_news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return over_ || channel < used_; };
  const TimedMutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&has_news));
  return !over_;
}

void ChannelTurns::Sent(uint64_t pages, uint64_t data_pages, uint64_t bytes) {
  if (!measures_) {
    return;
  }
  const TimedMutexLock lock(&mutex_);
  part_.pages += pages;
  part_.data_pages += data_pages;
  part_.bytes += bytes;
  const MonotonicTime now = clock_.Now();
  const absl::Duration took = now - part_.start;
  if (took < kPart) {
    return;
  }
  const Part part = part_;
  part_ = {.start = now};
  if (settles_) {
    settles_ = false;
    return;
  }
  if (part.data_pages < part.pages / 4 * 3) {
    return;
  }
  const double most =
      limit_ == 0 ? static_cast<double>(part.bytes) : static_cast<double>(limit_) * absl::ToDoubleSeconds(took);
  count_.Sent(std::min(part.bytes, static_cast<uint64_t>(most)), took);
  settles_ = true;
  used_ = count_.now();
  measures_ = !count_.is_found();
}

void ChannelTurns::End() {
  const TimedMutexLock lock(&mutex_);
  over_ = true;
  ended_ = clock_.Now();
}

std::vector<double> ChannelTurns::rates() const {
  const TimedMutexLock lock(&mutex_);
  return count_.rates();
}

}  // namespace ferrite::migration
