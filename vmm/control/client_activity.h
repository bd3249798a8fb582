// How busy a client of the control server is.
#ifndef FERRITE_VMM_CONTROL_CLIENT_ACTIVITY_H_
#define FERRITE_VMM_CONTROL_CLIENT_ACTIVITY_H_

#include <kj/common.h>
#include <kj/timer.h>

#include <cstddef>
#include <memory>
#include <utility>

namespace ferrite {

// Whether a client would be missed, and how much it asks for.
struct ClientActivity {
  size_t busy = 0;  // calls that are being carried out, and subscriptions
  kj::TimePoint idle_since;
  size_t operations = 0;     // calls that wait for their turn, or have it
  size_t balloon_waits = 0;  // calls that wait for the balloon
  size_t subscriptions = 0;
};

// While it lives its client is not idle.
class Busy {
 public:
  Busy(std::shared_ptr<ClientActivity> activity, kj::Timer& timer) : activity_(std::move(activity)), timer_(timer) {
    ++activity_->busy;
  }
  ~Busy() {
    --activity_->busy;
    activity_->idle_since = timer_.now();
  }
  KJ_DISALLOW_COPY(Busy);

 private:
  const std::shared_ptr<ClientActivity> activity_;
  kj::Timer& timer_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_CLIENT_ACTIVITY_H_
