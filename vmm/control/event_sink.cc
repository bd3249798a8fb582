#include "vmm/control/event_sink.h"

#include "absl/time/time.h"
#include "base/clean_text.h"
#include "vmm/control/mirror_rpc.h"
#include "vmm/control/move_rpc.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

MachineEvent::Kind FromRpc(control::Event::Kind kind) {
  switch (kind) {
    case control::Event::Kind::RUNNING:
      return MachineEvent::Kind::kRunning;
    case control::Event::Kind::PAUSED:
      return MachineEvent::Kind::kPaused;
    case control::Event::Kind::RESET:
      return MachineEvent::Kind::kReset;
    case control::Event::Kind::STOPPED:
      return MachineEvent::Kind::kStopped;
    case control::Event::Kind::MOVE:
      return MachineEvent::Kind::kMove;
    case control::Event::Kind::LOST_PAGE:
      return MachineEvent::Kind::kLostPage;
    case control::Event::Kind::MIRROR:
      return MachineEvent::Kind::kMirror;
    case control::Event::Kind::BALLOON:
      break;
  }
  return MachineEvent::Kind::kBalloon;
}

}  // namespace

kj::Promise<void> EventSink::event(EventContext context) {
  const auto in = context.getParams().getEvent();
  queue_->Push({.event = {FromRpc(in.getKind()), CleanLines(FromKj(in.getText()), kMaxLongText)},
                .move = ReadMove(in.getMove()),
                .mirror = ReadMirror(in.getMirror()),
                .time = absl::FromUnixMillis(in.getUnixMs()),
                .missed = in.getMissed()});
  return kj::READY_NOW;
}

}  // namespace ferrite
