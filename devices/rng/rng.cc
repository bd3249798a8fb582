#include "devices/rng/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {256};
// So that a guest that asks without end does not keep the loop's thread from the other devices.
constexpr int kChainsPerPass = 16;

absl::Status FillRandom(std::span<uint8_t> out) {
  while (!out.empty()) {
    const ssize_t got = getrandom(out.data(), out.size(), 0);
    if (got < 0) {
      if (errno == EINTR) {
        continue;
      }
      return ErrnoStatus("getrandom");
    }
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const uint16_t> Rng::queue_sizes() const { return kQueueSizes; }

void Rng::ReadConfig(uint64_t, std::span<uint8_t> out) { std::memset(out.data(), 0, out.size()); }

absl::Status Rng::ProcessQueue(uint16_t index) {
  virtio::Queue& queue = transport().queue(index);
  for (int i = 0; i < kChainsPerPass; ++i) {
    FERRITE_ASSIGN_OR_RETURN(const std::optional<virtio::Chain> chain, queue.Pop());
    if (!chain.has_value()) {
      break;
    }
    absl::Cleanup unanswered = [&queue] { queue.PutBack(); };
    if (chain->readable_bytes() != 0) {
      return absl::InvalidArgumentError("an entropy request has memory for the device to read");  // §5.4.6.1
    }
    const uint64_t wanted = std::min(chain->writable_bytes(), kMaxRequestBytes);
    uint64_t filled = 0;
    for (const auto& segment : chain->writable()) {
      const uint64_t bytes = std::min<uint64_t>(segment.bytes.size(), wanted - filled);
      const std::span<uint8_t> part = segment.bytes.first(bytes);
      if (absl::Status status = FillRandom(part); !status.ok()) {
        (void)transport().memory().FindLost(part);
        return status;
      }
      filled += bytes;
    }
    chain->MarkWritten(0, filled);
    std::move(unanswered).Cancel();
    queue.Push(chain->head(), filled);
  }
  transport().NotifyUsed(index);
  return absl::OkStatus();
}

absl::Status Rng::CheckState(state::VirtioMmio::Reader in) const {
  return in.isRng() ? absl::OkStatus() : absl::InvalidArgumentError("the state is not that of an entropy device");
}

}  // namespace ferrite
