#include "tests/fakes/fake_event_loop.h"

#include <poll.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/monotonic.h"

namespace ferrite {

class FakeEventLoop::EntryWatch final : public EventLoop::Watch {
 public:
  EntryWatch(FakeEventLoop& loop, uint64_t id) : loop_(loop), id_(id) {}
  ~EntryWatch() override { loop_.entries_.erase(id_); }

 private:
  FakeEventLoop& loop_;
  const uint64_t id_;
};

std::unique_ptr<EventLoop::Watch> FakeEventLoop::Add(Entry entry) {
  const uint64_t id = next_id_++;
  entries_.emplace(id, std::move(entry));
  return std::make_unique<EntryWatch>(*this, id);
}

absl::StatusOr<std::unique_ptr<EventLoop::Watch>> FakeEventLoop::WatchReadable(int fd, std::function<void()> ready) {
  return Add({.fd = fd, .callback = std::move(ready)});
}

std::unique_ptr<EventLoop::Watch> FakeEventLoop::WatchTimer(absl::Duration period, std::function<void()> expired) {
  return Add({.period = period, .due = now_ + period, .callback = std::move(expired)});
}

void FakeEventLoop::Post(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  posted_.push_back(std::move(task));
}

bool FakeEventLoop::RunPosted() {
  std::function<void()> task;
  {
    absl::MutexLock lock(&mutex_);
    if (posted_.empty()) {
      return false;
    }
    task = std::move(posted_.front());
    posted_.pop_front();
  }
  task();
  return true;
}

bool FakeEventLoop::RunReadable(absl::Duration wait) {
  std::vector<pollfd> fds;
  std::vector<uint64_t> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry.fd >= 0) {
      fds.push_back({entry.fd, POLLIN, 0});
      ids.push_back(id);
    }
  }
  const int ready = poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(wait)));
  for (size_t i = 0; i < fds.size(); ++i) {
    // A callback may have ended other watches.
    if (const auto found = entries_.find(ids[i]); fds[i].revents != 0 && found != entries_.end()) {
      std::function<void()> callback = found->second.callback;
      callback();
    }
  }
  return ready > 0;
}

void FakeEventLoop::RunReady() {
  while (RunPosted() || RunReadable(absl::ZeroDuration())) {
  }
}

bool FakeEventLoop::RunUntil(const std::function<bool()>& done, absl::Duration deadline) {
  const MonotonicTime end = MonotonicTime::Now() + deadline;
  while (!done()) {
    const absl::Duration left = end - MonotonicTime::Now();
    if (left <= absl::ZeroDuration()) {
      return false;
    }
    // `done` may also look at what other threads do, which wakes nobody here.
    if (!RunPosted()) {
      RunReadable(std::min(left, absl::Milliseconds(10)));
    }
  }
  return true;
}

void FakeEventLoop::Advance(absl::Duration time) {
  const absl::Duration end = now_ + time;
  for (;;) {
    auto next = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->second.fd < 0 && it->second.due <= end && (next == entries_.end() || it->second.due < next->second.due)) {
        next = it;
      }
    }
    if (next == entries_.end()) {
      break;
    }
    now_ = next->second.due;
    next->second.due += next->second.period;
    std::function<void()> callback = next->second.callback;
    callback();
    RunReady();
  }
  now_ = end;
}

}  // namespace ferrite
