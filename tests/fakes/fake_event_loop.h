// An event loop that runs when the test says so, on the test's thread, in virtual time.
#ifndef FERRITE_TESTS_FAKES_FAKE_EVENT_LOOP_H_
#define FERRITE_TESTS_FAKES_FAKE_EVENT_LOOP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_loop.h"

namespace ferrite {

// Threads: Post() any; all else, and every callback, on the test's thread, which counts as the loop's.
class FakeEventLoop final : public EventLoop {
 public:
  // Calls what is ready (posted tasks, readable descriptors) until nothing is.
  void RunReady();
  // Runs what becomes ready until `done` holds; false when that took longer than `deadline` of real time.
  bool RunUntil(const std::function<bool()>& done, absl::Duration deadline = absl::Seconds(30));
  // Calls the timers that expire within `time`, in order.
  void Advance(absl::Duration time);

  absl::StatusOr<std::unique_ptr<Watch>> WatchReadable(int fd, std::function<void()> ready) override;
  std::unique_ptr<Watch> WatchTimer(absl::Duration period, std::function<void()> expired) override;
  void Post(std::function<void()> task) override;
  void RunAndWait(std::function<void()> task) override { task(); }

 private:
  struct Entry {
    int fd = -1;  // a timer when negative
    absl::Duration period;
    absl::Duration due;
    std::function<void()> callback;
  };
  class EntryWatch;

  std::unique_ptr<Watch> Add(Entry entry);
  bool RunPosted();
  bool RunReadable(absl::Duration wait);

  absl::Mutex mutex_;
  std::deque<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Entry> entries_;
  uint64_t next_id_ = 0;
  absl::Duration now_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_EVENT_LOOP_H_
