// A client that watches the machine.
#ifndef FERRITE_VMM_CONTROL_WATCHER_H_
#define FERRITE_VMM_CONTROL_WATCHER_H_

#include <kj/async.h>
#include <kj/timer.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>

#include "proto/control.capnp.h"
#include "vmm/control/client_activity.h"
#include "vmm/control/mirror_port.h"
#include "vmm/control/move_port.h"
#include "vmm/machine/machine.h"

namespace ferrite {

// An event with the time at which it was published.
struct TimedEvent {
  MachineEvent event;
  std::optional<MoveStatus> move;
  std::optional<MirrorStatus> mirror;
  int64_t unix_ms = 0;
};

// A client's subscription: what is due to its sink, which gets one event at a time. Who is slow misses events, and is
// told how many.
//
// Threads: the one of the kj event loop.
class Watcher final : public control::Subscription::Server, private kj::TaskSet::ErrorHandler {
 public:
  // Is in `all` as long as it lives.
  Watcher(std::list<Watcher*>& all, control::EventSink::Client sink, std::shared_ptr<ClientActivity> activity,
          kj::Timer& timer);
  ~Watcher() noexcept(false);

  void Push(const TimedEvent& event);
  // `count` events before the next one were lost.
  void AddMissed(uint64_t count) { missed_ += count; }
  // When the client has taken all that was pushed.
  kj::Promise<void> AllTaken() { return calls_.onEmpty(); }

 private:
  static constexpr size_t kMaxQueued = 64;

  void SendNext();
  void taskFailed(kj::Exception&& exception) override;

  std::list<Watcher*>& all_;
  const std::shared_ptr<ClientActivity> activity_;
  const Busy busy_;
  control::EventSink::Client sink_;
  std::deque<TimedEvent> queue_;
  uint64_t missed_ = 0;
  bool calling_ = false;
  bool broken_ = false;
  kj::TaskSet calls_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_WATCHER_H_
