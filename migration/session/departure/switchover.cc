#include "migration/session/departure/switchover.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/thread_class.h"
#include "base/timed_mutex.h"
#include "memory/page_range.h"
#include "migration/protocol/messages.h"
#include "migration/session/departure/rounds.h"
#include "migration/session/phase_runner.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kUnansweredDiscards = 32;
// Discards that are told while the guest still runs need not be told while it stands still.
constexpr int kEarlyDiscards = 3;
// How long the guest may stand still: a limit for peers that hang, not the aim. On top come multiples of what was to be
// expected.
constexpr absl::Duration kStandstillLimit = absl::Seconds(3);
constexpr int kStandstillFactor = 4;

// Acts once, on a thread of its own, when it was not stopped within `limit`.
class Watchdog {
 public:
  Watchdog() = default;
  ~Watchdog() { (void)Stop(); }

  absl::Status Start(const Host& host, absl::Duration limit, std::function<void()> act) {
    FERRITE_ASSIGN_OR_RETURN(thread_, host.threads.Start("mig-src-watch", ThreadClass::kInherited,
                                                         [this, &clock = host.clock, limit, act = std::move(act)] {
                                                           if (Watch(clock, limit)) {
                                                             act();
                                                           }
                                                         }));
    return absl::OkStatus();
  }

  // Whether it acted.
  bool Stop() {
    {
      const TimedMutexLock lock(&mutex_);
      over_ = true;
    }
    thread_.Join();
    const TimedMutexLock lock(&mutex_);
    return barked_;
  }

 private:
  // Whether it is to act.
  bool Watch(const Clock& clock, absl::Duration limit) {
    const TimedMutexLock lock(&mutex_);
    barked_ = !mutex_.AwaitFor(clock, absl::Condition(&over_), limit);
    return barked_;
  }

  TimedMutex mutex_;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  bool barked_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

absl::Status StopGuest(Departure& departure) {
  departure.switchover = departure.Now();
  departure.undo.Push([&machine = departure.machine](const absl::Status& so_far) {
    if (so_far.ok()) {
      return Annotate(machine.run().Resume(), "resume the guest");
    }
    // Not for good: who sees to the disk may resume it, or move it again.
    machine.run().StayPaused();
    return absl::OkStatus();
  });
  return Timed(departure.host.clock, departure.report.stop, [&] { return departure.machine.run().Pause(); });
}

// Tells what the destination holds but is out of date; with `waits` until it has dropped all of it.
absl::Status SendDiscards(Departure& departure, bool waits) {
  FERRITE_RETURN_IF_ERROR(departure.pages().EndRounds());
  const std::vector<PageRange> stale = departure.pages().TakeStale(/*can_be_lost=*/waits);
  const std::span<const PageRange> all(stale);
  uint64_t messages = 0;
  for (size_t at = 0; at < all.size() || (waits && messages == 0); at += kMaxRanges) {
    const auto some = all.subspan(at, std::min(kMaxRanges, all.size() - at));
    const bool is_last = at + some.size() == all.size();
    // The other side queues what it did not get to: it is not sent more than it takes.
    const bool asks = ++messages % kUnansweredDiscards == 0 || (is_last && waits);
    FERRITE_RETURN_IF_ERROR(
        departure.peer().Send(message::Discard{.ranges = {some.begin(), some.end()}, .last = asks}));
    if (asks) {
      FERRITE_RETURN_IF_ERROR(departure.Await<message::Discarded>().status());
    }
  }
  return absl::OkStatus();
}

// Everything that was written goes now: nothing is missing behind the switchover.
absl::Status SendLastPages(Departure& departure) {
  FERRITE_RETURN_IF_ERROR(departure.pages().CollectDirty().status());
  return SendRound(
      departure, [&] { return departure.cancelled(); }, /*last=*/true);
}

// What was written since it was sent is told to be out of date, and comes behind the switchover.
absl::Status TellLastPages(Departure& departure) {
  FERRITE_RETURN_IF_ERROR(departure.pages().CollectDirty().status());
  FERRITE_RETURN_IF_ERROR(SendDiscards(departure, /*waits=*/false));
  // What is mirrored comes with it; of memory it is empty: the channels stop at its end until the destination is ready
  // to place pages live.
  return SendRound(
      departure, [&] { return !departure.mirrors || departure.cancelled(); }, /*last=*/true, RoundPages::kAll,
      WhichParts::kMirrored);
}

absl::Status SendPackage(Departure& departure) {
  std::vector<uint8_t> blob;
  FERRITE_RETURN_IF_ERROR(Timed(departure.host.clock, departure.report.state, [&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(blob, departure.machine.state().SaveState());
    departure.undo.Push([&machine = departure.machine](const absl::Status&) {
      return Annotate(machine.resources().AcquireDisks(), "take the disks back");
    });
    return departure.machine.resources().ReleaseDisks();
  }));
  message::Loaded loaded;
  absl::Duration took;
  FERRITE_RETURN_IF_ERROR(Timed(departure.host.clock, took, [&]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(departure.peer().Send(
        message::Package{.version = kPackageVersion, .blob = std::move(blob), .postcopy = departure.postcopy}));
    if (departure.postcopy) {
      // Loading may touch guest memory.
      departure.serving = true;
      departure.pages().StartPostcopy();
    }
    FERRITE_ASSIGN_OR_RETURN(loaded, departure.Await<message::Loaded>());
    return absl::OkStatus();
  }));
  departure.report.load = std::min(loaded.load, took);
  departure.report.send = took - departure.report.load;
  return absl::OkStatus();
}

absl::Status SendAll(Departure& departure) {
  if (departure.postcopy && !departure.mirrors) {
    FERRITE_RETURN_IF_ERROR(TellStaleEarly(departure));
  }
  // Who stops the guest waits for what it writes.
  departure.blocking.Stop();
  departure.report.downtime_limit = departure.options.downtime_limit;
  departure.delays.emplace(gettid(), departure.machine.run().VcpuThreads());
  FERRITE_RETURN_IF_ERROR(StopGuest(departure));
  departure.report.postcopy = departure.postcopy;
  FERRITE_RETURN_IF_ERROR(Timed(departure.host.clock, departure.report.last_pages, [&] {
    return departure.postcopy ? TellLastPages(departure) : SendLastPages(departure);
  }));
  return SendPackage(departure);
}

}  // namespace

absl::Status TellStaleEarly(Departure& departure) {
  for (int i = 0; i < kEarlyDiscards; ++i) {
    FERRITE_RETURN_IF_ERROR(departure.pages().CollectDirty().status());
    FERRITE_RETURN_IF_ERROR(SendDiscards(departure, /*waits=*/true));
    departure.pages().AllArrived();
  }
  return absl::OkStatus();
}

absl::Status SwitchOver(Departure& departure) {
  // What is left is little, and the guest waits for it.
  departure.pages().LiftLimit();
  if (departure.mirrors) {
    departure.pages().SetPatience(departure.options.silence);
  }
  const absl::Duration limit =
      kStandstillLimit + kStandstillFactor * (departure.options.downtime_limit + departure.load_estimate);
  const absl::Status too_long =
      absl::DeadlineExceededError(absl::StrCat("the destination lives, but the guest stood still for ",
                                               absl::FormatDuration(limit), ", and that was not over yet"));
  Watchdog watchdog;
  FERRITE_RETURN_IF_ERROR(watchdog.Start(departure.host, limit, [&] { departure.link.broken().Cancel(too_long); }));
  const absl::Status status = SendAll(departure);
  return watchdog.Stop() && !departure.peer().said_why() ? too_long : status;
}

}  // namespace ferrite::migration
