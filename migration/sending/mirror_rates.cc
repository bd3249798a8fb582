#include "migration/sending/mirror_rates.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

constexpr absl::Duration kWindow = absl::Seconds(1);
// Between two samples: the window and one more before it have room.
constexpr absl::Duration kStride = absl::Milliseconds(50);
constexpr absl::Duration kLeastTime = absl::Microseconds(1);

}  // namespace

void MirrorRates::Note(const Totals& totals, MonotonicTime now) {
  if (next_ >= 2 && now - samples_[(next_ - 2) % samples_.size()].at < kStride) {
    samples_[(next_ - 1) % samples_.size()] = {now, totals};
  } else {
    samples_[next_++ % samples_.size()] = {now, totals};
  }
  const Totals& base = Base(now).totals;
  if (totals.data > base.data) {
    possible_ = static_cast<double>(totals.data - base.data) /
                absl::ToDoubleSeconds(std::max(totals.busy - base.busy, kLeastTime));
  }
}

const MirrorRates::Sample& MirrorRates::Base(MonotonicTime now) const {
  size_t at = next_ - 1;
  const size_t oldest = next_ > samples_.size() ? next_ - samples_.size() : 0;
  while (at > oldest && now - samples_[at % samples_.size()].at < kWindow) {
    --at;
  }
  return samples_[at % samples_.size()];
}

double MirrorRates::Rate(uint64_t Totals::*total, MonotonicTime now) const {
  if (next_ == 0) {
    return 0;
  }
  const Sample& base = Base(now);
  const absl::Duration time = std::clamp(now - base.at, kLeastTime, kWindow);
  return static_cast<double>(Last().totals.*total - base.totals.*total) / absl::ToDoubleSeconds(time);
}

double MirrorRates::copied(MonotonicTime now) const { return Rate(&Totals::copied, now); }

double MirrorRates::dirtied(MonotonicTime now) const { return Rate(&Totals::dirtied, now); }

}  // namespace ferrite::migration
