#include "bench/engine_guest.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <ctime>

#include "base/monotonic.h"
#include "base/status.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr uint64_t kWords = kPageBytes / sizeof(uint64_t);
constexpr uint64_t kMagic = 0x6665727269746532;
constexpr int64_t kWaitNs = 15'000;  // a page that is there is mapped in less
constexpr absl::Duration kIdleRest = absl::Microseconds(200);
constexpr uint64_t kWritesBetweenRests = 16;
constexpr int64_t kMostWorkNs = 1'000'000;  // that is rested for: what was done before the throttle does not count

struct State {
  uint64_t magic;
  GuestPlan plan;
  uint64_t writes;
  int64_t last_write;
  int64_t longest_gap;
  uint64_t wrong_pages;
};

int64_t ThreadCpuNs(clockid_t clock) {
  timespec used = {};
  clock_gettime(clock, &used);
  return int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
}

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// A different place for each of [0, size), which is a power of two.
uint64_t Scatter(uint64_t index, uint64_t size) {
  const uint64_t mask = size - 1;
  const int shift = (std::bit_width(mask) + 1) / 2;
  for (const uint64_t factor : {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f}) {
    index = (index * factor) & mask;
    index ^= index >> shift;
  }
  return index;
}

// What a page holds. `generation`: the number of the write that wrote it last, 0 for what Fill() left.
class Content {
 public:
  Content(const GuestPlan& plan, uint64_t page, uint64_t generation)
      : zero_(page >= plan.set_pages || (plan.zeros && generation == 0)),
        base_(page * kWords + generation * 0x9e3779b97f4a7c15) {}

  uint64_t Word(uint64_t word) const { return zero_ ? 0 : Mix(base_ + word); }

 private:
  bool zero_;
  uint64_t base_;
};

// A guest's accesses race with the monitor's by nature; a real one's are not seen by a sanitizer either.
__attribute__((no_sanitize("thread"))) void WritePage(uint8_t* page, const Content& content) {
  auto* const words = reinterpret_cast<volatile uint64_t*>(page);
  for (uint64_t word = 0; word < kWords; ++word) {
    words[word] = content.Word(word);
  }
}
__attribute__((no_sanitize("thread"))) bool Holds(const uint8_t* page, const Content& content, uint64_t word) {
  return reinterpret_cast<const volatile uint64_t*>(page)[word] == content.Word(word);
}

// Both ends and a word between them: half a page of each age is found.
bool HoldsWhereLookedAt(const uint8_t* page, const Content& content, uint64_t visit) {
  return Holds(page, content, 0) && Holds(page, content, kWords - 1) && Holds(page, content, Mix(visit) % kWords);
}

}  // namespace

EngineGuest::EngineGuest(GuestMemory& memory, const GuestPlan& plan)
    : memory_(memory), plan_(plan), workers_(1 + plan.readers) {
  FERRITE_CHECK(std::has_single_bit(plan.hot_pages) && plan.hot_pages <= plan.set_pages);
  workers_[0].thread = StartOrDie("guest-writer", [this] {
    Work(workers_[0], [this] {
      WriteOne();
      return true;
    });
  });
  for (uint32_t reader = 0; reader < plan.readers; ++reader) {
    Worker& worker = workers_[1 + reader];
    worker.thread = StartOrDie("guest-reader", [this, reader, &worker] {
      uint64_t position = 0;
      Work(worker, [&] { return arrived_.load(std::memory_order_relaxed) && ReadOne(reader, position); });
    });
  }
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &EngineGuest::AllParked));
}

EngineGuest::~EngineGuest() {
  Pause();
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  for (Worker& worker : workers_) {
    worker.thread.Join();
  }
}

EngineGuest::Place EngineGuest::PlaceOf(uint64_t page) const {
  for (const auto& region : memory_.regions()) {
    if (page < region->pages()) {
      return {region.get(), page * kPageBytes};
    }
    page -= region->pages();
  }
  FERRITE_CHECK(false);
  return {};
}

uint8_t* EngineGuest::PageAt(uint64_t page) const {
  const Place place = PlaceOf(page);
  return place.region->guest_mapping().data() + place.offset;
}

void EngineGuest::Fill() {
  for (uint64_t page = 0; page < plan_.set_pages; ++page) {
    WritePage(PageAt(page), Content(plan_, page, 0));
  }
}

void EngineGuest::SetRunning(bool running) {
  {
    TimedMutexLock lock(&rest_mutex_);
    may_rest_ = running;
  }
  absl::MutexLock lock(&mutex_);
  run_ = running;
  stop_ = !running;
}

void EngineGuest::Resume() { SetRunning(true); }

void EngineGuest::Pause() {
  SetRunning(false);
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &EngineGuest::AllParked));
}

bool EngineGuest::HasThread(pid_t thread) const {
  return std::any_of(workers_.begin(), workers_.end(), [&](const Worker& worker) { return worker.id == thread; });
}

double EngineGuest::CpuSeconds() const {
  int64_t used = 0;
  for (const Worker& worker : workers_) {
    used += ThreadCpuNs(worker.clock);
  }
  return static_cast<double>(used) * 1e-9;
}

void EngineGuest::Work(Worker& worker, const std::function<bool()>& step) {
  worker.id = gettid();
  clockid_t clock = CLOCK_THREAD_CPUTIME_ID;
  FERRITE_CHECK(pthread_getcpuclockid(pthread_self(), &clock) == 0);
  worker.clock = clock;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      ++parked_;
      mutex_.Await(absl::Condition(this, &EngineGuest::MustWork));
      if (ending_) {
        return;
      }
      --parked_;
    }
    while (!stop_.load(std::memory_order_relaxed)) {
      if (!step()) {
        // Nothing more to do.
        absl::MutexLock lock(&mutex_);
        ++parked_;
        mutex_.Await(absl::Condition(&ending_));
        return;
      }
    }
  }
}

// `write` counts from 1.
uint64_t EngineGuest::HotPageOf(uint64_t write) const {
  switch (plan_.work) {
    case GuestWork::kIdle:
      return 0;
    case GuestWork::kSequential:
      return (write - 1) % plan_.hot_pages;
    case GuestWork::kRandom:
      return Scatter((write - 1) % plan_.hot_pages, plan_.hot_pages);
  }
  return 0;
}

void EngineGuest::WriteOne() {
  if (forget_gaps_.exchange(false, std::memory_order_relaxed)) {
    longest_gap_ = 0;
  }
  const uint64_t write = writes_.load(std::memory_order_relaxed) + 1;
  const uint64_t cycle = plan_.work == GuestWork::kIdle ? 1 : plan_.hot_pages;
  const uint64_t number = HotPageOf(write);
  const Place place = PlaceOf(number);
  uint8_t* const page = place.region->guest_mapping().data() + place.offset;
  const int64_t begin = MonotonicNs();
  if (!HoldsWhereLookedAt(page, Content(plan_, number, write > cycle ? write - cycle : 0), write)) {
    wrong_pages_.fetch_add(1, std::memory_order_relaxed);
  }
  WritePage(page, Content(plan_, number, write));
  // After the bytes: a mark that comes before them can be collected without them.
  place.region->MarkWritten(place.offset, kPageBytes);
  const int64_t end = MonotonicNs();
  const int64_t last = last_write_.load(std::memory_order_relaxed);
  if (last != 0) {
    longest_gap_.store(std::max(longest_gap_.load(std::memory_order_relaxed), end - last), std::memory_order_relaxed);
  }
  if (first_here_) {
    first_here_ = false;
    {
      absl::MutexLock lock(&mutex_);
      arrival_gap_ = last == 0 ? 0 : end - last;
    }
    wrote_here_.Notify();
  }
  last_write_.store(end, std::memory_order_relaxed);
  writes_.store(write, std::memory_order_relaxed);
  NoteAccess(begin, end);
  if (plan_.work == GuestWork::kIdle) {
    Rest(kIdleRest);
  } else if (const int percent = throttle_.load(std::memory_order_relaxed);
             percent > 0 && ++since_rest_ >= kWritesBetweenRests) {
    since_rest_ = 0;
    const int64_t worked = ThreadCpuNs(CLOCK_THREAD_CPUTIME_ID) - worked_from_;
    Rest(absl::Nanoseconds(std::min(worked, kMostWorkNs)) * percent / (100 - percent));
    worked_from_ = ThreadCpuNs(CLOCK_THREAD_CPUTIME_ID);
  }
}

void EngineGuest::Rest(absl::Duration time) {
  TimedMutexLock lock(&rest_mutex_);
  rest_mutex_.AwaitFor(absl::Condition(
                           +[](bool* may_rest) { return !*may_rest; }, &may_rest_),
                       time);
}

bool EngineGuest::ReadOne(uint32_t reader, uint64_t& position) {
  const uint64_t pages = plan_.set_pages - plan_.hot_pages;
  if (pages == 0) {
    return false;
  }
  const uint64_t size = std::bit_ceil(pages);
  uint64_t place = size;
  // Each begins elsewhere, and reads all.
  while (place >= pages) {
    if (position == size) {
      return false;
    }
    place = Scatter((size / plan_.readers * reader + position++) % size, size);
  }
  const uint64_t number = plan_.hot_pages + place;
  const uint8_t* const page = PageAt(number);
  const int64_t begin = MonotonicNs();
  if (!HoldsWhereLookedAt(page, Content(plan_, number, 0), position)) {
    wrong_pages_.fetch_add(1, std::memory_order_relaxed);
  }
  NoteAccess(begin, MonotonicNs());
  return true;
}

void EngineGuest::NoteAccess(int64_t begin, int64_t end) {
  if (end - begin < kWaitNs || !arrived_.load(std::memory_order_relaxed)) {
    return;
  }
  absl::MutexLock lock(&mutex_);
  waits_.Add(static_cast<uint64_t>(end - begin));
}

std::vector<uint8_t> EngineGuest::Save() const {
  const State state{.magic = kMagic,
                    .plan = plan_,
                    .writes = writes_,
                    .last_write = last_write_,
                    .longest_gap = longest_gap_,
                    .wrong_pages = wrong_pages_};
  std::vector<uint8_t> blob(sizeof(state));
  std::memcpy(blob.data(), &state, sizeof(state));
  return blob;
}

absl::Status EngineGuest::Check(std::span<const uint8_t> blob) const {
  State state;
  if (blob.size() != sizeof(state)) {
    return absl::InvalidArgumentError("bench guest: the state is cut");
  }
  std::memcpy(&state, blob.data(), sizeof(state));
  if (state.magic != kMagic || !(state.plan == plan_)) {
    return absl::FailedPreconditionError("bench guest: the state is of another guest");
  }
  return absl::OkStatus();
}

void EngineGuest::Load(std::span<const uint8_t> blob) {
  State state;
  std::memcpy(&state, blob.data(), sizeof(state));
  writes_ = state.writes;
  last_write_ = state.last_write;
  longest_gap_ = state.longest_gap;
  wrong_pages_ = state.wrong_pages;
  arrived_ = true;
}

GuestFigures EngineGuest::figures() const {
  absl::MutexLock lock(&mutex_);
  return {.writes = writes_,
          .longest_gap = longest_gap_,
          .arrival_gap = arrival_gap_,
          .waits = waits_.count(),
          .wait_p50 = waits_.Quantile(0.5),
          .wait_p99 = waits_.Quantile(0.99),
          .wait_sum = waits_.sum(),
          .wrong_pages = wrong_pages_};
}

uint64_t EngineGuest::CheckAll() const {
  const uint64_t writes = writes_;
  uint64_t wrong = 0;
  const auto check = [&](uint64_t page, uint64_t generation) {
    const Content content(plan_, page, generation);
    const uint8_t* const data = PageAt(page);
    for (uint64_t word = 0; word < kWords; ++word) {
      if (!Holds(data, content, word)) {
        ++wrong;
        return;
      }
    }
  };
  const uint64_t cycle = plan_.work == GuestWork::kIdle ? 1 : plan_.hot_pages;
  for (uint64_t i = 0; i < cycle; ++i) {
    // The last of the writes i + 1, i + 1 + cycle, ... up to `writes`.
    check(HotPageOf(i + 1), writes > i ? i + 1 + (writes - 1 - i) / cycle * cycle : 0);
  }
  for (uint64_t page = cycle; page < memory_.total_bytes() / kPageBytes; ++page) {
    check(page, 0);
  }
  return wrong;
}

}  // namespace ferrite
