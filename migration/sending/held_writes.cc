#include "migration/sending/held_writes.h"

#include <algorithm>

#include "base/status.h"

namespace ferrite::migration {

HeldWrites::HeldWrites(DirtyChunks& chunks, uint32_t block_bytes, uint64_t most_alone)
    : chunks_(chunks), block_bytes_(block_bytes), most_alone_(most_alone) {
  held_.reserve(kMost);
}

HeldWrites::Outcome HeldWrites::Wrote(uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || offset >= chunks_.bytes()) {
    return {};
  }
  bytes = std::min(bytes, chunks_.bytes() - offset);
  // Held over the marking: what is clean and in the table was copied.
  const absl::MutexLock lock(&mutex_);
  if (!holds_ || held_.size() == kMost) {
    return {.ticket = 0, .is_news = chunks_.Mark(offset, bytes)};
  }
  const uint64_t granularity = chunks_.granularity();
  const uint64_t last = offset + bytes - 1;
  Wanted wanted{.ticket = ++last_ticket_, .first = offset / granularity, .end = last / granularity + 1};
  // The disk ends with a block.
  wanted.offset = offset / block_bytes_ * block_bytes_;
  wanted.bytes = (last / block_bytes_ + 1) * block_bytes_ - wanted.offset;
  if (wanted.bytes <= most_alone_) {
    if (const std::optional<ChunkRun> run = chunks_.Claim(offset, bytes); run.has_value()) {
      wanted.is_alone = true;
      wanted.run = *run;
    }
  }
  if (!wanted.is_alone) {
    (void)chunks_.Mark(offset, bytes);
  }
  held_.push_back(wanted);
  return {.ticket = wanted.ticket, .is_news = true};
}

bool HeldWrites::holds() const {
  const absl::MutexLock lock(&mutex_);
  return holds_;
}

void HeldWrites::Hold() {
  const absl::MutexLock lock(&mutex_);
  holds_ = true;
}

void HeldWrites::LetGo(std::vector<uint64_t>& answers) {
  const absl::MutexLock lock(&mutex_);
  holds_ = false;
  for (const Wanted& wanted : held_) {
    if (wanted.is_alone && !wanted.is_started) {
      chunks_.GiveBack(wanted.run);
    }
    answers.push_back(wanted.ticket);
  }
  held_.clear();
}

std::optional<HeldWrites::Wanted> HeldWrites::Get(size_t index) const {
  const absl::MutexLock lock(&mutex_);
  return index < held_.size() ? std::optional<Wanted>(held_[index]) : std::nullopt;
}

void HeldWrites::Start(size_t index) {
  const absl::MutexLock lock(&mutex_);
  FERRITE_CHECK(index < held_.size() && held_[index].is_alone && !held_[index].is_started);
  held_[index].is_started = true;
}

MonotonicTime HeldWrites::See(MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  for (auto wanted = held_.rbegin(); wanted != held_.rend() && wanted->since == MonotonicTime::InfiniteFuture();
       ++wanted) {
    wanted->since = now;
  }
  return held_.empty() ? MonotonicTime::InfiniteFuture() : held_.front().since;
}

uint64_t HeldWrites::last_ticket() const {
  const absl::MutexLock lock(&mutex_);
  return last_ticket_;
}

void HeldWrites::Copied(const ChunkRun& run, uint64_t ticket) {
  const absl::MutexLock lock(&mutex_);
  for (Wanted& wanted : held_) {
    if (wanted.ticket <= ticket && wanted.first >= run.first && wanted.first < run.end()) {
      wanted.first = std::min(run.end(), wanted.end);
    }
  }
}

void HeldWrites::CopiedAlone(uint64_t ticket) {
  const absl::MutexLock lock(&mutex_);
  for (Wanted& wanted : held_) {
    if (wanted.ticket == ticket) {
      wanted.first = wanted.end;
    }
  }
}

void HeldWrites::TakeCopied(std::vector<uint64_t>& answers) {
  const absl::MutexLock lock(&mutex_);
  const auto left = std::remove_if(held_.begin(), held_.end(), [&](Wanted& wanted) {
    // What was copied out of order, and is clean.
    wanted.first = chunks_.FindUnclean(wanted.first, wanted.end);
    if (wanted.first < wanted.end) {
      return false;
    }
    answers.push_back(wanted.ticket);
    return true;
  });
  held_.erase(left, held_.end());
}

}  // namespace ferrite::migration
