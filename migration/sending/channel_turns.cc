#include "migration/sending/channel_turns.h"

namespace ferrite::migration {

void ChannelTurns::Begin(bool counts) {
  const TimedMutexLock lock(&mutex_);
  over_ = false;
  all_ = !counts;
  // Who is behind a pause fills the buffers again.
  settles_ = true;
  part_ = {.start = clock_.Now()};
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
  count_.Sent(part.bytes, took);
  settles_ = true;
  used_ = count_.now();
  measures_ = !count_.is_found();
}

void ChannelTurns::End() {
  const TimedMutexLock lock(&mutex_);
  over_ = true;
}

std::vector<double> ChannelTurns::rates() const {
  const TimedMutexLock lock(&mutex_);
  return count_.rates();
}

}  // namespace ferrite::migration
