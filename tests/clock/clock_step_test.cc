// The wall clock is set back and forward by an hour, while something waits and while a guest moves: nobody notices.
// Runs in the outer machine alone, whose clock it may set.
#include <cpuid.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/move_options.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/move_harness.h"

namespace ferrite {
namespace {

// What did not end by then waits for the wall clock, which is wrong by an hour. All of it takes some seconds, but the
// host of this emulated machine may have other things to do.
constexpr absl::Duration kPatience = absl::Minutes(3);

// An emulated processor (CPUID leaf 0x40000000), the host name that outer_init.sh gives, and its files at the root.
bool InOuterMachine() {
  unsigned eax = 0;
  std::array<unsigned, 3> signature = {};
  __cpuid(0x40000000, eax, signature[0], signature[1], signature[2]);
  utsname names = {};
  uname(&names);
  return memcmp(signature.data(), "TCGTCGTCGTCG", sizeof(signature)) == 0 &&
         absl::string_view(names.nodename) == "outer" && access("/nested/directory", F_OK) == 0;
}

absl::Duration WallTime() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return absl::DurationFromTimespec(now);
}

void SetWallTime(absl::Duration time) {
  FERRITE_CHECK(InOuterMachine());
  const timespec value = absl::ToTimespec(time);
  FERRITE_CHECK(clock_settime(CLOCK_REALTIME, &value) == 0);
}

class ClockStepTest : public testing::TestWithParam<absl::Duration> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InOuterMachine())
        << "this test sets the clock, and so runs in the outer machine alone: docs/testing.md";
    offset_ = WallTime() - MonotonicTime::Now().since_origin();
  }
  void TearDown() override {
    if (InOuterMachine()) {
      Restore();
    }
  }

  void Step() {
    SetWallTime(WallTime() + GetParam());
    stepped_ = true;
  }
  void Restore() { SetWallTime(MonotonicTime::Now().since_origin() + offset_); }

  // Runs `body` on a thread of its own, and returns how long it took. When that is too long, the clock is set right so
  // that it may end, or else the whole test does.
  absl::Duration Took(const std::function<void()>& body) {
    const MonotonicTime start = MonotonicTime::Now();
    // Watched by poll(2) and not by what is tested.
    const Fd done(eventfd(0, EFD_CLOEXEC));
    Thread thread = StartOrDie("test-body", [&] {
      body();
      eventfd_write(done.get(), 1);
    });
    pollfd polled{.fd = done.get(), .events = POLLIN, .revents = 0};
    if (poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) != 1) {
      ADD_FAILURE() << "still not done after " << kPatience;
      Restore();
      // Who took the wrong time for a duration sleeps for an hour whatever the clock says now.
      FERRITE_CHECK(poll(&polled, 1, 10'000) == 1);
    }
    thread.Join();
    EXPECT_TRUE(stepped_) << "the clock was never set";
    return MonotonicTime::Now() - start;
  }

 private:
  absl::Duration offset_;
  std::atomic<bool> stepped_{false};
};

TEST_P(ClockStepTest, WaitForAConditionEndsInItsTime) {
  constexpr absl::Duration kWait = absl::Seconds(2);
  TimedMutex mutex;
  std::atomic<bool> waits{false};
  const auto never = [&] {
    waits = true;
    return false;
  };
  Thread stepper = StartOrDie("stepper", [&] {
    while (!waits) {
      usleep(1000);
    }
    {
      // It waits when the mutex is to be had.
      const TimedMutexLock lock(&mutex);
    }
    Step();
  });
  bool met = true;
  const absl::Duration took = Took([&] {
    const TimedMutexLock lock(&mutex);
    met = mutex.AwaitFor(absl::Condition(&never), kWait);
  });
  stepper.Join();
  EXPECT_FALSE(met);
  EXPECT_GE(took, kWait);
}

TEST_P(ClockStepTest, TimerOfTheEventLoopKeepsItsPeriod) {
  constexpr absl::Duration kPeriod = absl::Milliseconds(500);
  constexpr int kTimes = 4;
  auto loop = EventLoop::Create("devices");
  ASSERT_TRUE(loop.ok()) << loop.status();
  TimedNotification all;
  std::unique_ptr<EventLoop::Watch> watch;
  int times = 0;
  const absl::Duration took = Took([&] {
    watch = (*loop)->WatchTimer(kPeriod, [&] {
      ++times;
      if (times == 1) {
        Step();
      }
      if (times == kTimes) {
        all.Notify();
      }
    });
    EXPECT_TRUE(all.WaitFor(2 * kPatience));
  });
  watch.reset();
  EXPECT_GE(took, kTimes * kPeriod);
}

class ClockStepMoveTest : public ClockStepTest {
 protected:
  // A move whose 8 MiB take two seconds, with the clock set in the middle of them. The guest works in few pages, so
  // that what it dirties does not decide how long it takes.
  void Run(migration::MoveMode mode, uint64_t max_bandwidth, uint64_t max_postcopy_bandwidth) {
    constexpr size_t kBytes = size_t{8} << 20;
    migration::FakeMove move({.bytes = 2 * kBytes, .work = {.first_page = 256, .pages = 64}});
    memset(move.memory().regions()[0]->guest_mapping().data() + kBytes, 1, kBytes);
    migration::FakeMoveResult result;
    std::atomic<bool> once{false};
    const absl::Duration took = Took([&] {
      result = move.Move({.mode = mode,
                          .downtime_limit = absl::Milliseconds(500),
                          .max_bandwidth = max_bandwidth,
                          .max_postcopy_bandwidth = max_postcopy_bandwidth,
                          .silence = kPatience},
                         [&](migration::Source&, const migration::MoveProgress& progress) {
                           const bool sends = mode == migration::MoveMode::kPostcopy
                                                  ? progress.state == migration::MoveState::kPostcopyActive
                                                  : progress.round > 0;
                           if (sends && !once.exchange(true)) {
                             Step();
                           }
                         });
    });
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    const migration::MoveReport& report = result.report;
    EXPECT_GT(report.total, absl::Seconds(1)) << "the limit held nothing back";
    EXPECT_LE(report.total, took);
    EXPECT_GT(report.downtime, absl::ZeroDuration());
    EXPECT_LE(report.downtime, report.total);
    for (const absl::Duration part :
         {report.stop, report.last_pages, report.state, report.send, report.load, report.run}) {
      EXPECT_GE(part, absl::ZeroDuration());
      EXPECT_LE(part, report.downtime);
    }
    for (const migration::WaitingFigures& waiting : report.waiting) {
      EXPECT_GE(waiting.max, absl::ZeroDuration());
      EXPECT_LE(waiting.max, report.total);
      EXPECT_LE(waiting.sum, report.total);
    }
  }
};

TEST_P(ClockStepMoveTest, PrecopyWithALimitEndsInItsTime) {
  Run(migration::MoveMode::kPrecopy, /*max_bandwidth=*/4 << 20, /*max_postcopy_bandwidth=*/0);
}

TEST_P(ClockStepMoveTest, PostcopyWithALimitEndsInItsTime) {
  Run(migration::MoveMode::kPostcopy, /*max_bandwidth=*/0, /*max_postcopy_bandwidth=*/4 << 20);
}

const auto kSteps = testing::Values(-absl::Hours(1), absl::Hours(1));
std::string StepName(const testing::TestParamInfo<absl::Duration>& info) {
  return info.param < absl::ZeroDuration() ? "Back" : "Forward";
}

INSTANTIATE_TEST_SUITE_P(Clock, ClockStepTest, kSteps, StepName);
INSTANTIATE_TEST_SUITE_P(Clock, ClockStepMoveTest, kSteps, StepName);

}  // namespace
}  // namespace ferrite
