#include "vmm/control/watcher.h"

#include <utility>

#include "base/log.h"
#include "vmm/control/mirror_rpc.h"
#include "vmm/control/move_rpc.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

control::Event::Kind ToRpc(MachineEvent::Kind kind) {
  switch (kind) {
    case MachineEvent::Kind::kRunning:
      return control::Event::Kind::RUNNING;
    case MachineEvent::Kind::kPaused:
      return control::Event::Kind::PAUSED;
    case MachineEvent::Kind::kReset:
      return control::Event::Kind::RESET;
    case MachineEvent::Kind::kStopped:
      return control::Event::Kind::STOPPED;
    case MachineEvent::Kind::kMove:
      return control::Event::Kind::MOVE;
    case MachineEvent::Kind::kLostPage:
      return control::Event::Kind::LOST_PAGE;
    case MachineEvent::Kind::kMirror:
      return control::Event::Kind::MIRROR;
    case MachineEvent::Kind::kBalloon:
      break;
  }
  return control::Event::Kind::BALLOON;
}

}  // namespace

Watcher::Watcher(std::list<Watcher*>& all, control::EventSink::Client sink, std::shared_ptr<ClientActivity> activity,
                 kj::Timer& timer)
    : all_(all), activity_(std::move(activity)), busy_(activity_, timer), sink_(kj::mv(sink)), calls_(*this) {
  all_.push_back(this);
  ++activity_->subscriptions;
}

Watcher::~Watcher() noexcept(false) {
  all_.remove(this);
  --activity_->subscriptions;
}

void Watcher::Push(const TimedEvent& event) {
  if (broken_) {
    return;
  }
  if (queue_.size() == kMaxQueued) {
    queue_.pop_front();
    ++missed_;
  }
  queue_.push_back(event);
  if (!calling_) {
    SendNext();
  }
}

void Watcher::SendNext() {
  calling_ = !queue_.empty();
  if (!calling_) {
    return;
  }
  auto request = sink_.eventRequest();
  auto event = request.initEvent();
  event.setKind(ToRpc(queue_.front().event.kind));
  event.setText(ToKj(queue_.front().event.text));
  event.setUnixMs(queue_.front().unix_ms);
  if (queue_.front().move.has_value()) {
    FillMove(*queue_.front().move, event.initMove());
  }
  if (queue_.front().mirror.has_value()) {
    FillMirror(*queue_.front().mirror, event.initMirror());
  }
  event.setMissed(std::exchange(missed_, 0));
  queue_.pop_front();
  calls_.add(request.send().ignoreResult().then([this] { SendNext(); }));
}

void Watcher::taskFailed(kj::Exception&& exception) {
  Log().debug("control: a watcher failed: {}", Summary(exception));
  broken_ = true;
  queue_.clear();
}

}  // namespace ferrite
