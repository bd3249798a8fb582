#include "bench/hole_watch.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <x86intrin.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr int kPriority = 50;
constexpr timespec kSleep = {.tv_sec = 0, .tv_nsec = 300'000};

}  // namespace

uint64_t TicksInHoles(std::vector<Hole> holes, uint64_t begin, uint64_t end) {
  std::sort(holes.begin(), holes.end(), [](const Hole& a, const Hole& b) { return a.begin < b.begin; });
  uint64_t ticks = 0;
  uint64_t counted_to = begin;
  for (const Hole& hole : holes) {
    const uint64_t from = std::max(hole.begin, counted_to);
    const uint64_t to = std::min(hole.end, end);
    if (from < to) {
      ticks += to - from;
      counted_to = to;
    }
  }
  return ticks;
}

absl::StatusOr<std::unique_ptr<HoleWatch>> HoleWatch::Start(uint64_t tsc_khz) {
  std::unique_ptr<HoleWatch> watch(new HoleWatch(tsc_khz));
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return ErrnoStatus("ask which processors there are");
  }
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) {
      continue;
    }
    // Known before its thread begins, so that ~HoleWatch() ends that.
    watch->watchers_.push_back(std::make_unique<Watcher>());
    Watcher* const watcher = watch->watchers_.back().get();
    FERRITE_ASSIGN_OR_RETURN(
        watcher->thread,
        Thread::Start(absl::StrCat("holes-", cpu), [watch = watch.get(), watcher] { watch->Watch(*watcher); }));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (const int error = pthread_setaffinity_np(watcher->thread.handle(), sizeof(one), &one); error != 0) {
      errno = error;
      return ErrnoStatus(absl::StrCat("pin a thread to processor ", cpu));
    }
    const sched_param priority = {.sched_priority = kPriority};
    if (pthread_setschedparam(watcher->thread.handle(), SCHED_FIFO, &priority) != 0) {
      watch->real_time_ = false;
    }
  }
  return watch;
}

void HoleWatch::Watch(Watcher& watcher) {
  for (uint64_t before = __rdtsc(); !stop_.load(std::memory_order_relaxed);) {
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &kSleep, nullptr);
    const uint64_t now = __rdtsc();
    if (now - before > late_ticks_) {
      watcher.holes.push_back({.begin = before, .end = now});
    }
    before = now;
  }
}

std::vector<Hole> HoleWatch::Stop() {
  stop_.store(true, std::memory_order_relaxed);
  std::vector<Hole> holes;
  for (const std::unique_ptr<Watcher>& watcher : watchers_) {
    watcher->thread.Join();
    holes.insert(holes.end(), watcher->holes.begin(), watcher->holes.end());
  }
  watchers_.clear();
  return holes;
}

}  // namespace ferrite
