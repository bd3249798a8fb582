// Whether a block of memory is worth being made a huge page: on a host that has hardly any left, or that must fetch
// them from its own host, one costs more than 512 small ones.
#ifndef FERRITE_MIGRATION_PLACING_HUGE_COST_H_
#define FERRITE_MIGRATION_PLACING_HUGE_COST_H_

#include <array>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace ferrite::migration {

// Compares what was measured of both, of late: medians, since a thread that lost its processor for a while says nothing
// about memory. The dearer one is tried again from time to time, ever less often while it stays that. Threads: any.
class HugeCost {
 public:
  // How the next block is to be made. The first one is small, so that there is something to compare with.
  bool WantsHuge();
  // One block, as a huge page.
  void TookHuge(absl::Duration time);
  // `pages` small ones; of a few nothing is learnt.
  void TookSmall(absl::Duration time, uint64_t pages);

 private:
  // Blocks between two tries of the dearer kind, at first and at most.
  static constexpr uint64_t kFirstPause = 8;
  static constexpr uint64_t kLongestPause = 128;

  // The last few costs of a block.
  class Costs {
   public:
    void Add(absl::Duration cost) { last_[count_++ % last_.size()] = cost; }
    bool known() const { return count_ > 0; }
    absl::Duration last() const { return last_[(count_ - 1) % last_.size()]; }
    // The smaller one of the two in the middle.
    absl::Duration Median() const;

   private:
    std::array<absl::Duration, 5> last_;
    uint64_t count_ = 0;
  };

  absl::Mutex mutex_;
  Costs huge_ ABSL_GUARDED_BY(mutex_);
  Costs small_ ABSL_GUARDED_BY(mutex_);
  uint64_t pause_ ABSL_GUARDED_BY(mutex_) = kFirstPause;
  uint64_t small_in_a_row_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_HUGE_COST_H_
