#include "vmm/console/output_ring.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"

namespace ferrite {

void OutputRing::Append(std::span<const uint8_t> bytes) {
  if (bytes.size() > capacity_) {
    const size_t skipped = bytes.size() - capacity_;
    // Positions go on as if the skipped bytes had been there; then every byte of the ring is overwritten below.
    data_.resize(capacity_);
    end_ += skipped;
    bytes = bytes.subspan(skipped);
  }
  while (!bytes.empty()) {
    const size_t at = end_ % capacity_;
    const size_t n = std::min(bytes.size(), capacity_ - at);
    if (data_.size() < at + n) {
      data_.resize(at + n);
    }
    memcpy(data_.data() + at, bytes.data(), n);
    end_ += n;
    bytes = bytes.subspan(n);
  }
}

size_t OutputRing::Read(uint64_t position, std::span<uint8_t> out) const {
  FERRITE_CHECK(position >= begin() && position <= end_);
  size_t done = 0;
  while (position < end_ && done < out.size()) {
    const size_t at = position % capacity_;
    const size_t n = std::min({out.size() - done, static_cast<size_t>(end_ - position), capacity_ - at});
    memcpy(out.data() + done, data_.data() + at, n);
    done += n;
    position += n;
  }
  return done;
}

}  // namespace ferrite
