#include "migration/sending/blocking_parts.h"

#include <algorithm>

#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread_class.h"

namespace ferrite::migration {

absl::Status BlockingParts::Start() {
  FERRITE_ASSIGN_OR_RETURN(thread_, host_.threads.Start("mig-src-held", ThreadClass::kInherited, [this] { Watch(); }));
  return absl::OkStatus();
}

bool BlockingParts::Add(OutgoingPart& part) {
  FERRITE_CHECK(thread_.joinable());
  const TimedMutexLock lock(&mutex_);
  parts_.reserve(parts_.size() + 1);
  if (!part.SetBlocking(true)) {
    return false;
  }
  parts_.push_back(&part);
  return true;
}

bool BlockingParts::empty() const {
  const TimedMutexLock lock(&mutex_);
  return parts_.empty();
}

void BlockingParts::Delivered() {
  const TimedMutexLock lock(&mutex_);
  for (OutgoingPart* part : parts_) {
    part->Delivered();
  }
}

void BlockingParts::End() {
  const TimedMutexLock lock(&mutex_);
  for (OutgoingPart* part : parts_) {
    (void)part->SetBlocking(false);
  }
  parts_.clear();
}

void BlockingParts::Stop() {
  End();
  {
    const TimedMutexLock lock(&mutex_);
    over_ = true;
  }
  thread_.Join();
}

void BlockingParts::Watch() {
  const TimedMutexLock lock(&mutex_);
  const auto has_parts = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return over_ || !parts_.empty(); };
  const auto has_none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return over_ || parts_.empty(); };
  while (!over_) {
    mutex_.Await(absl::Condition(&has_parts));
    // What is held from here on is not due before this.
    MonotonicTime oldest = host_.clock.Now();
    const MonotonicTime due = oldest - kMostHeld;
    for (OutgoingPart* part : parts_) {
      oldest = std::min(oldest, part->LetGo(due));
    }
    (void)mutex_.AwaitUntil(host_.clock, absl::Condition(&has_none), oldest + kMostHeld);
  }
}

}  // namespace ferrite::migration
