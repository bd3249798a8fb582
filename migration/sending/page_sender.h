// The source's end of one page or urgent channel: claimed runs of guest memory become frames.
#ifndef FERRITE_MIGRATION_SENDING_PAGE_SENDER_H_
#define FERRITE_MIGRATION_SENDING_PAGE_SENDER_H_

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "memory/guest_memory.h"
#include "memory/page_range.h"
#include "migration/channel/stream.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/rate_limiter.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

// Threads: one. Frames gather until Flush() or until there is enough for one system call; guest memory goes from where
// it is to the socket, and the guest may write it meanwhile (then the page is dirty and goes again).
class PageSender {
 public:
  // All outlive the sender. `limiter`, which goes by `clock`, may be null.
  PageSender(Stream& stream, const GuestMemory& memory, RateLimiter* limiter, const Clock& clock, SendFigures& figures);

  // The pages of `run`, zero pages as runs of their own. `pages_per_unit`: what goes as data goes in whole units.
  absl::Status SendRun(const PageRange& run, uint64_t pages_per_unit);
  // Pages that are known to be zero, or that nobody needs: not read.
  absl::Status SendZero(const PageRange& run);
  absl::Status SendRoundEnd(uint32_t number);
  absl::Status Flush();

  // Over this sender.
  uint64_t sent_bytes() const { return sent_bytes_; }

 private:
  static constexpr size_t kMaxFrames = 128;
  static constexpr uint64_t kFlushBytes = 1 << 20;

  absl::Status Add(const PageHeader& header, const uint8_t* data);

  Stream& stream_;
  const GuestMemory& memory_;
  RateLimiter* const limiter_;
  const Clock& clock_;
  SendFigures& figures_;
  std::array<std::array<uint8_t, kPageHeaderBytes>, kMaxFrames> headers_;
  size_t frames_ = 0;
  std::vector<iovec> pieces_;
  uint64_t gathered_ = 0;
  uint64_t sent_bytes_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_PAGE_SENDER_H_
