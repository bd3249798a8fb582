#include "devices/balloon/balloon_inhibitor.h"

namespace ferrite {

BalloonInhibitor::Token& BalloonInhibitor::Token::operator=(Token&& other) noexcept {
  if (this != &other) {
    Release();
    inhibitor_ = std::exchange(other.inhibitor_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

void BalloonInhibitor::Token::Release() {
  if (BalloonInhibitor* inhibitor = std::exchange(inhibitor_, nullptr); inhibitor != nullptr) {
    inhibitor->Release(id_);
  }
}

BalloonInhibitor::Token BalloonInhibitor::Inhibit(std::string reason) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = next_id_++;
  reasons_.emplace(id, std::move(reason));
  return Token(this, id);
}

bool BalloonInhibitor::inhibited() const {
  absl::MutexLock lock(&mutex_);
  return !reasons_.empty();
}

std::vector<std::string> BalloonInhibitor::reasons() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> reasons;
  for (const auto& [id, reason] : reasons_) {
    reasons.push_back(reason);
  }
  return reasons;
}

bool BalloonInhibitor::RunUnlessInhibited(absl::FunctionRef<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (!reasons_.empty()) {
    return false;
  }
  work();
  return true;
}

void BalloonInhibitor::Release(uint64_t id) {
  {
    absl::MutexLock lock(&mutex_);
    reasons_.erase(id);
    if (!reasons_.empty()) {
      return;
    }
  }
  released_();
}

}  // namespace ferrite
