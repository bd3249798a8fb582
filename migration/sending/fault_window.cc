#include "migration/sending/fault_window.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

// A request so little past the end of what was sent still continues its stream: the pages between were there already.
constexpr uint64_t kSlack = 16;

}  // namespace

FaultWindow::Foreseen FaultWindow::OnRequest(uint16_t region, uint64_t page) {
  const absl::MutexLock lock(&mutex_);
  ++clock_;
  Track* oldest = tracks_.data();
  for (Track& track : tracks_) {
    if (track.used != 0 && track.region == region && page >= track.next && page - track.next < kSlack) {
      track.window = std::clamp<uint32_t>(track.window * 2, 2, kMaxPages);
      track.next = page + 1 + track.window;
      track.used = clock_;
      return {.pages = track.window, .hit = true};
    }
    if (track.used < oldest->used) {
      oldest = &track;
    }
  }
  *oldest = {.region = region, .next = page + 1, .window = 0, .used = clock_};
  return {};
}

}  // namespace ferrite::migration
