// The guest of engine_bench: threads that work in guest memory, without KVM.
//
// They use memory as a vCPU does: a page that is missing at the destination is a real fault of a real thread, seen
// through userfaultfd. Dirty tracking is not the kernel's: the writer marks each page that it wrote in its region's own
// bitmap (MemoryRegion::MarkWritten(), one atomic operation of some 20 ns beside some 0.7 us for writing the page).
// That runs on every kernel and costs the same with and without a move; under KVM's dirty log the first write to a page
// in each round costs a vCPU 1 to 2 us more, so this writer is faster than a real one in the rounds of pre-copy.
#ifndef FERRITE_BENCH_ENGINE_GUEST_H_
#define FERRITE_BENCH_ENGINE_GUEST_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "memory/guest_memory.h"
#include "migration/placing/latency_histogram.h"

namespace ferrite {

enum class GuestWork : uint32_t {
  kIdle,        // writes one page 5,000 times a second, and sleeps in between
  kSequential,  // writes its hot pages at full speed, in the order of their addresses
  kRandom,      // the same in an order that looks random, each page once before any again
};

// What a guest is told to do; both sides of a move know it.
struct GuestPlan {
  uint64_t set_pages = 0;  // the first pages of memory, filled; the rest is never touched
  uint64_t hot_pages = 0;  // the first of them, which the writer writes; a power of two
  GuestWork work = GuestWork::kIdle;
  bool zeros = false;    // the set is filled with zeros, not with what does not compress
  uint32_t readers = 0;  // threads that, when the guest has arrived, read the pages behind the hot ones in random order

  bool operator==(const GuestPlan&) const = default;
};

// What its threads saw. ns.
struct GuestFigures {
  uint64_t writes = 0;      // of pages, in all its life
  int64_t longest_gap = 0;  // between the ends of two writes, since ForgetGaps()
  int64_t arrival_gap = 0;  // between the last write at the source and the first here
  uint64_t waits = 0;       // accesses at the destination that took longer than a page that is there could take
  uint64_t wait_p50 = 0;
  uint64_t wait_p99 = 0;
  uint64_t wait_sum = 0;
  uint64_t wrong_pages = 0;  // that did not hold what they must, as the threads came across them
};

// Every word of every page is a function of its place and of how often the page was written, so that a page which is
// older than it should be, or half there, is found: at each visit (three words of it) and by CheckAll() (all of it).
//
// Threads: one thread calls; the guest's are its own, paused at first.
class EngineGuest {
 public:
  EngineGuest(GuestMemory& memory, const GuestPlan& plan);
  EngineGuest(const EngineGuest&) = delete;
  EngineGuest& operator=(const EngineGuest&) = delete;
  // Waits for a thread that waits for a page.
  ~EngineGuest();

  // What a guest has in its memory before it runs.
  void Fill();
  void Resume();
  // After it returned nothing writes guest memory.
  void Pause();
  // The writer rests for this part of the time, 0 to 99 percent.
  void SetThrottle(int percent) { throttle_.store(percent, std::memory_order_relaxed); }
  void ForgetGaps() { forget_gaps_.store(true, std::memory_order_relaxed); }
  bool HasThread(pid_t thread) const;
  // Processor time of the guest's threads so far, what the kernel did on them included.
  double CpuSeconds() const;

  // Paused. The state is the guest's "registers".
  std::vector<uint8_t> Save() const;
  absl::Status Check(std::span<const uint8_t> state) const;
  // From here on it has arrived: Resume() runs the readers too.
  void Load(std::span<const uint8_t> state);
  GuestFigures figures() const;
  // Waits until it has written in this process; false when it has not within `limit`.
  bool AwaitWriteHere(absl::Duration limit) { return wrote_here_.WaitFor(limit); }
  // Looks at all of memory; the number of pages that do not hold what they must.
  uint64_t CheckAll() const;

 private:
  struct Worker {
    Thread thread;
    std::atomic<pid_t> id{0};
    std::atomic<clockid_t> clock{0};
  };

  struct Place {
    MemoryRegion* region = nullptr;
    uint64_t offset = 0;
  };

  Place PlaceOf(uint64_t page) const;
  uint8_t* PageAt(uint64_t page) const;
  // The page of write number `write`, from 1.
  uint64_t HotPageOf(uint64_t write) const;
  // Does `step` while the guest runs, until it is false: it has nothing more to do then.
  void Work(Worker& worker, const std::function<bool()>& step);
  void WriteOne();
  // At most; ends with the pause.
  void Rest(absl::Duration time);
  void SetRunning(bool running);
  // `reader` counts from 0. False when it has read all.
  bool ReadOne(uint32_t reader, uint64_t& position);
  void NoteAccess(int64_t begin, int64_t end);
  bool MustWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return run_ || ending_; }
  bool AllParked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return parked_ == workers_.size(); }

  GuestMemory& memory_;
  const GuestPlan plan_;
  std::atomic<bool> stop_{true};
  std::atomic<bool> arrived_{false};
  std::atomic<bool> forget_gaps_{false};
  std::atomic<int> throttle_{0};
  std::atomic<uint64_t> wrong_pages_{0};
  mutable absl::Mutex mutex_;
  bool run_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  size_t parked_ ABSL_GUARDED_BY(mutex_) = 0;
  migration::LatencyHistogram waits_ ABSL_GUARDED_BY(mutex_);
  int64_t arrival_gap_ ABSL_GUARDED_BY(mutex_) = 0;
  // Only the writer waits at it.
  TimedMutex rest_mutex_;
  bool may_rest_ ABSL_GUARDED_BY(rest_mutex_) = false;
  TimedNotification wrote_here_;
  // The writer's; whoever has paused it may look, too.
  std::atomic<uint64_t> writes_{0};
  std::atomic<int64_t> last_write_{0};  // when it ended; 0: none yet
  std::atomic<int64_t> longest_gap_{0};
  bool first_here_ = true;  // the next write is
  uint64_t since_rest_ = 0;
  int64_t worked_from_ = 0;
  // Fixed once made; the last member: its threads use the others.
  std::vector<Worker> workers_;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_ENGINE_GUEST_H_
