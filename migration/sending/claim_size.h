// How much a channel takes on at a time in a round.
#ifndef FERRITE_MIGRATION_SENDING_CLAIM_SIZE_H_
#define FERRITE_MIGRATION_SENDING_CLAIM_SIZE_H_

#include <cstdint>

#include "absl/time/time.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// A round ends when its slowest channel is done with what it has claimed: that is never more than what it sends in a
// moment, as far as was measured. So a channel that carries a tenth of what the others do does not hold up the round.
// One that stalls altogether does, until it is given up (PageSource::kStalled). Large claims cost less for each page,
// and a channel of 100 MB/s or more has the largest. Threads: one.
class ClaimSize {
 public:
  // Pages. The least one still fills a packet many times.
  static constexpr uint64_t kLeast = 16;
  static constexpr uint64_t kMost = kMaxDataPages;
  // How long a claim is to take.
  static constexpr absl::Duration kAim = absl::Milliseconds(20);

  uint64_t pages() const { return pages_; }
  // What is claimed goes at once, and does not gather with the next one.
  bool goes_at_once() const { return pages_ < kMost; }
  // A claim of so many took so long.
  void Sent(uint64_t pages, absl::Duration took);

 private:
  uint64_t pages_ = kMost / 8;
  // Lately, older claims weigh less.
  double sent_ = 0;
  absl::Duration took_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CLAIM_SIZE_H_
