#include "migration/placing/round_gate.h"

#include "absl/strings/str_cat.h"

namespace ferrite::migration {

absl::StatusOr<RoundGate::Next> RoundGate::Arrive(uint32_t number) {
  const absl::MutexLock lock(&mutex_);
  if (number != round_ + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a page channel ended round ", number, " where round ", round_ + 1, " was due"));
  }
  ++arrived_;
  const auto open = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return round_ >= number || !failure_.ok(); };
  mutex_.Await(absl::Condition(&open));
  if (!failure_.ok()) {
    return failure_;
  }
  return next_;
}

absl::Status RoundGate::AwaitAll(uint32_t number) {
  const absl::MutexLock lock(&mutex_);
  if (number != round_ + 1) {
    return absl::InvalidArgumentError(absl::StrCat("ROUND ", number, " came where ", round_ + 1, " was due"));
  }
  const auto all = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return arrived_ == channels_ || !failure_.ok(); };
  mutex_.Await(absl::Condition(&all));
  return failure_;
}

void RoundGate::Open(Next next) {
  const absl::MutexLock lock(&mutex_);
  ++round_;
  arrived_ = 0;
  next_ = next;
}

void RoundGate::Fail(const absl::Status& reason) {
  const absl::MutexLock lock(&mutex_);
  if (failure_.ok()) {
    failure_ = reason;
  }
}

}  // namespace ferrite::migration
