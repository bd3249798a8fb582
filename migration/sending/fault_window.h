// How many pages to send along with one that was asked for (docs/architecture.md): a pure predictor.
#ifndef FERRITE_MIGRATION_SENDING_FAULT_WINDOW_H_
#define FERRITE_MIGRATION_SENDING_FAULT_WINDOW_H_

#include <array>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ferrite::migration {

// Follows a few streams of faults at once (a guest has several threads). A request that continues one of them, at or
// just after what was sent for it, doubles that stream's window; one that continues none starts a new stream without a
// window, in place of the one that was quiet longest. So a sequential reader soon gets long runs and a random one
// nothing extra. One for all urgent channels of a move: whichever fault thread gets a fault asks over its own.
//
// Threads: any.
class FaultWindow {
 public:
  static constexpr uint32_t kMaxPages = 64;

  struct Foreseen {
    uint32_t pages = 0;  // [page + 1, page + 1 + pages) are worth sending
    bool hit = false;    // the request continues a stream
  };
  Foreseen OnRequest(uint16_t region, uint64_t page);

 private:
  struct Track {
    uint16_t region = 0;
    uint64_t next = 0;  // the page after all that was sent
    uint32_t window = 0;
    uint64_t used = 0;  // time of the last request, 0: free
  };

  absl::Mutex mutex_;
  std::array<Track, 16> tracks_ ABSL_GUARDED_BY(mutex_);
  uint64_t clock_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_FAULT_WINDOW_H_
