#include "base/cancel_token.h"

#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {

absl::StatusOr<CancelToken> CancelToken::Create() {
  FERRITE_ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return CancelToken(std::move(event));
}

void CancelToken::Cancel(const absl::Status& reason) {
  FERRITE_CHECK(!reason.ok());
  {
    const TimedMutexLock lock(&mutex_);
    if (!reason_.ok()) {
      return;
    }
    reason_ = reason;
    cancelled_.store(true, std::memory_order_release);
    event_.Signal();
    runner_ = pthread_self();
  }
  while (true) {
    Callback* next = nullptr;
    {
      const TimedMutexLock lock(&mutex_);
      // Who waits for the end of the one that ran goes on.
      next = first_;
      running_ = next;
      if (next == nullptr) {
        return;
      }
      Remove(*next);
    }
    // What was begun is done: nobody cancels it again.
    UntilThereIsMemory([&] { next->act_(reason); });
  }
}

void CancelToken::Renew() {
  const TimedMutexLock lock(&mutex_);
  reason_ = absl::OkStatus();
  cancelled_.store(false, std::memory_order_release);
  (void)event_.Drain();
}

absl::Status CancelToken::reason() const {
  const TimedMutexLock lock(&mutex_);
  return reason_;
}

bool CancelToken::WaitFor(const Clock& clock, absl::Duration limit) const {
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !reason_.ok(); };
  const TimedMutexLock lock(&mutex_);
  return mutex_.AwaitFor(clock, absl::Condition(&over), limit);
}

void CancelToken::Append(Callback& callback) {
  callback.waits_ = true;
  callback.previous_ = last_;
  (last_ == nullptr ? first_ : last_->next_) = &callback;
  last_ = &callback;
}

void CancelToken::Remove(Callback& callback) {
  callback.waits_ = false;
  (callback.previous_ == nullptr ? first_ : callback.previous_->next_) = callback.next_;
  (callback.next_ == nullptr ? last_ : callback.next_->previous_) = callback.previous_;
}

CancelToken::Callback::Callback(CancelToken& token, std::function<void(const absl::Status& reason)> act)
    : token_(token), act_(std::move(act)) {
  absl::Status reason;
  {
    const TimedMutexLock lock(&token_.mutex_);
    reason = token_.reason_;
    if (reason.ok()) {
      token_.Append(*this);
    }
  }
  if (!reason.ok()) {
    act_(reason);
  }
}

CancelToken::Callback::~Callback() {
  const TimedMutexLock lock(&token_.mutex_);
  if (waits_) {
    token_.Remove(*this);
    return;
  }
  if (token_.running_ == this && pthread_equal(token_.runner_, pthread_self()) != 0) {
    return;
  }
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(token_.mutex_) { return token_.running_ != this; };
  token_.mutex_.Await(absl::Condition(&over));
}

}  // namespace ferrite
