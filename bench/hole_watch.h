// Holes of the machine: times in which a processor of this host did not run even what goes before all else, because the
// host is a guest itself and its processor was given to others. A gap that a guest saw and that has one in it says
// nothing of the monitor.
#ifndef FERRITE_BENCH_HOLE_WATCH_H_
#define FERRITE_BENCH_HOLE_WATCH_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/thread.h"

namespace ferrite {

// In ticks of this host's time stamp counter.
struct Hole {
  uint64_t begin;
  uint64_t end;
};

// Ticks of [begin, end) that are in `holes`; where holes of two processors overlap, once.
uint64_t TicksInHoles(std::vector<Hole> holes, uint64_t begin, uint64_t end);

// A thread pinned to each processor, of real-time priority where this process may have that, which sleeps for 0.3 ms
// again and again.
class HoleWatch {
 public:
  // A sleep that ends this much too late was in a hole.
  static constexpr absl::Duration kLate = absl::Milliseconds(2);

  static absl::StatusOr<std::unique_ptr<HoleWatch>> Start(uint64_t tsc_khz);
  ~HoleWatch() { (void)Stop(); }

  // Whether its threads go before all others: without that a hole may be another thread's turn.
  bool real_time() const { return real_time_; }
  // Ends it; what it saw.
  std::vector<Hole> Stop();

 private:
  struct Watcher {
    std::vector<Hole> holes;  // the thread's until it is joined
    Thread thread;
  };

  explicit HoleWatch(uint64_t tsc_khz) : late_ticks_(static_cast<uint64_t>(kLate / absl::Milliseconds(1)) * tsc_khz) {}
  void Watch(Watcher& watcher);

  const uint64_t late_ticks_;
  std::atomic<bool> stop_{false};
  bool real_time_ = true;
  std::vector<std::unique_ptr<Watcher>> watchers_;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_HOLE_WATCH_H_
