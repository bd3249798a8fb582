#include "migration/sending/mirror_window.h"

#include <algorithm>
#include <utility>

namespace ferrite::migration {
namespace {

constexpr double kOfBase = 1.5;
// A queue of that time is no burden to who waits behind it.
constexpr absl::Duration kQueue = absl::Milliseconds(1);
constexpr absl::Duration kLeastTime = absl::Microseconds(1);
constexpr double kMostChange = 2;
// Rounds between two looks at what an operation takes by itself: it may have become less.
constexpr int kProbeEach = 128;
constexpr uint64_t kWindowsPerBurst = 2;

}  // namespace

MirrorWindow::MirrorWindow(uint64_t least, uint64_t most)
    : least_(std::min(least, most)), most_(most), bytes_(least_) {}

bool MirrorWindow::TakesMore(uint64_t in_flight, uint64_t guest_writes) {
  if (burst_bytes_ >= kWindowsPerBurst * bytes_) {
    if (in_flight > 0 && guest_writes != guest_writes_) {
      return false;
    }
    burst_bytes_ = 0;
    guest_writes_ = guest_writes;
  }
  was_full_ |= in_flight >= bytes_;
  return in_flight < bytes_;
}

void MirrorWindow::Note(uint64_t bytes, absl::Duration took) {
  noted_bytes_ += bytes;
  noted_time_ += took;
  ++noted_;
  if (noted_bytes_ < bytes_) {
    return;
  }
  const absl::Duration mean = std::max(std::exchange(noted_time_, {}) / std::exchange(noted_, 0), kLeastTime);
  noted_bytes_ = 0;
  if (bytes_ == least_) {
    // One by one: that is what it takes now.
    base_ = mean;
    if (probed_from_ != 0) {
      bytes_ = std::exchange(probed_from_, 0);
      return;
    }
  } else if (++rounds_ % kProbeEach == 0) {
    probed_from_ = std::exchange(bytes_, least_);
    return;
  }
  base_ = std::min(base_, mean);
  const double change = absl::FDivDuration(base_ * kOfBase + kQueue, mean);
  if (change > 1 && !std::exchange(was_full_, false)) {
    return;
  }
  const double wanted = static_cast<double>(bytes_) * std::clamp(change, 1 / kMostChange, kMostChange);
  bytes_ = std::clamp(static_cast<uint64_t>(wanted), least_, most_);
}

}  // namespace ferrite::migration
