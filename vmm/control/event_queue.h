// Where a subscription's events wait until somebody asks for the next.
#ifndef FERRITE_VMM_CONTROL_EVENT_QUEUE_H_
#define FERRITE_VMM_CONTROL_EVENT_QUEUE_H_

#include <kj/async.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "vmm/control/watched_event.h"

namespace ferrite {

// Threads: that of the kj event loop.
class EventQueue {
 public:
  // A move's events come several times a second.
  static constexpr size_t kMaxEvents = 64;

  // Without room the oldest event goes, and is counted in the `missed` of the next one.
  void Push(WatchedEvent event) {
    if (events_.size() == kMaxEvents) {
      missed_ += 1 + events_.front().missed;
      events_.pop_front();
    }
    events_.push_back(std::move(event));
    KJ_IF_MAYBE (waiting, waiting_) {
      (*waiting)->fulfill();
      waiting_ = nullptr;
    }
  }
  bool empty() const { return events_.empty(); }
  // Not empty().
  WatchedEvent Pop() {
    WatchedEvent event = std::move(events_.front());
    events_.pop_front();
    event.missed += std::exchange(missed_, 0);
    return event;
  }
  // The next Push().
  kj::Promise<void> Pushed() {
    auto pair = kj::newPromiseAndFulfiller<void>();
    waiting_ = kj::mv(pair.fulfiller);
    return kj::mv(pair.promise);
  }

 private:
  std::deque<WatchedEvent> events_;
  uint64_t missed_ = 0;  // before the first of them
  kj::Maybe<kj::Own<kj::PromiseFulfiller<void>>> waiting_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_EVENT_QUEUE_H_
