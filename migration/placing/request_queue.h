// What the parts of an arrival ask for.
#ifndef FERRITE_MIGRATION_PLACING_REQUEST_QUEUE_H_
#define FERRITE_MIGRATION_PLACING_REQUEST_QUEUE_H_

#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "memory/page_range.h"

namespace ferrite::migration {

// A part that has changed a unit's state to requested puts it in here; a thread of an urgent channel sends it. While
// there is no connection it is taken out and forgotten: what is requested by its state is asked for again.
//
// Threads: any.
class RequestQueue {
 public:
  static absl::StatusOr<RequestQueue> Create() {
    absl::StatusOr<EventFd> event = EventFd::Create();
    if (!event.ok()) {
      return event.status();
    }
    return RequestQueue(*std::move(event));
  }
  // Only before anybody else knows of it.
  RequestQueue(RequestQueue&& other) noexcept : event_(std::move(other.event_)) {}

  void Put(const PageRange& run) {
    const absl::MutexLock lock(&mutex_);
    runs_.push_back(run);
    event_.Signal();
  }
  std::vector<PageRange> TakeAll() {
    const absl::MutexLock lock(&mutex_);
    (void)event_.Drain();
    return std::exchange(runs_, {});
  }
  // Readable while something is in there.
  const EventFd& event() const { return event_; }

 private:
  explicit RequestQueue(EventFd event) : event_(std::move(event)) {}

  EventFd event_;
  absl::Mutex mutex_;
  std::vector<PageRange> runs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_REQUEST_QUEUE_H_
