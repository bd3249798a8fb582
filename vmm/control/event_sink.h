// Where a machine's events come in at a client.
#ifndef FERRITE_VMM_CONTROL_EVENT_SINK_H_
#define FERRITE_VMM_CONTROL_EVENT_SINK_H_

#include <memory>
#include <utility>

#include "proto/control.capnp.h"
#include "vmm/control/event_queue.h"

namespace ferrite {

// Puts all that comes into a queue, in clean words.
//
// Threads: that of the kj event loop.
class EventSink final : public control::EventSink::Server {
 public:
  explicit EventSink(std::shared_ptr<EventQueue> queue) : queue_(std::move(queue)) {}

 protected:
  kj::Promise<void> event(EventContext context) override;

 private:
  std::shared_ptr<EventQueue> queue_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_EVENT_SINK_H_
