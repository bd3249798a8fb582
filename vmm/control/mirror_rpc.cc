#include "vmm/control/mirror_rpc.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clean_text.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::ErrorPolicy;
using migration::MirrorState;
using RpcPolicy = control::MirrorOptions::ErrorPolicy;

int64_t Ns(absl::Duration duration) { return absl::ToInt64Nanoseconds(duration); }

// By its name, as a move's.
MirrorState StateOf(absl::string_view name) {
  static constexpr MirrorState kStates[] = {
      MirrorState::kRunning,   MirrorState::kReady,     MirrorState::kPaused, MirrorState::kCompleting,
      MirrorState::kCompleted, MirrorState::kCancelled, MirrorState::kFailed,
  };
  for (const MirrorState state : kStates) {
    if (migration::MirrorStateName(state) == name) {
      return state;
    }
  }
  return MirrorState::kRunning;
}

RpcPolicy ToRpc(ErrorPolicy policy) {
  switch (policy) {
    case ErrorPolicy::kIgnore:
      return RpcPolicy::IGNORE;
    case ErrorPolicy::kStop:
      return RpcPolicy::STOP;
    case ErrorPolicy::kEnospc:
      return RpcPolicy::STOP_WHEN_FULL;
    case ErrorPolicy::kReport:
      break;
  }
  return RpcPolicy::REPORT;
}

ErrorPolicy FromRpc(RpcPolicy policy) {
  switch (policy) {
    case RpcPolicy::IGNORE:
      return ErrorPolicy::kIgnore;
    case RpcPolicy::STOP:
      return ErrorPolicy::kStop;
    case RpcPolicy::STOP_WHEN_FULL:
      return ErrorPolicy::kEnospc;
    case RpcPolicy::REPORT:
      break;
  }
  return ErrorPolicy::kReport;
}

control::Mirror::End ToRpc(MirrorEnd end) {
  switch (end) {
    case MirrorEnd::kRemoved:
      return control::Mirror::End::REMOVED;
    case MirrorEnd::kKept:
      return control::Mirror::End::KEPT;
    case MirrorEnd::kDisk:
      return control::Mirror::End::DISK;
    case MirrorEnd::kLeft:
      break;
  }
  return control::Mirror::End::LEFT;
}

MirrorEnd FromRpc(control::Mirror::End end) {
  switch (end) {
    case control::Mirror::End::REMOVED:
      return MirrorEnd::kRemoved;
    case control::Mirror::End::KEPT:
      return MirrorEnd::kKept;
    case control::Mirror::End::DISK:
      return MirrorEnd::kDisk;
    case control::Mirror::End::LEFT:
      break;
  }
  return MirrorEnd::kLeft;
}

std::string Copy(capnp::Text::Reader text) { return CleanText(FromKj(text), kMaxLongText); }

}  // namespace

void FillMirror(const MirrorStatus& mirror, control::Mirror::Builder out) {
  const migration::MirrorFigures& figures = mirror.figures;
  out.setNumber(mirror.number);
  out.setDisk(ToKj(mirror.disk));
  out.setTarget(ToKj(mirror.target));
  out.setWhat(ToKj(mirror.what));
  out.setState(ToKj(std::string(migration::MirrorStateName(figures.state))));
  out.setWriteBlocking(figures.copy_mode == CopyMode::kWriteBlocking);
  out.setAutoComplete(mirror.auto_complete);
  out.setTotalBytes(figures.total_bytes);
  out.setDoneBytes(figures.done_bytes);
  out.setDirtyBytes(figures.dirty_bytes);
  out.setInFlightBytes(figures.in_flight_bytes);
  out.setCopiedBytes(figures.copied_bytes);
  out.setZeroBytes(figures.zero_bytes);
  out.setAgainBytes(figures.again_bytes);
  out.setRate(figures.rate);
  out.setDirtyRate(figures.dirty_rate);
  out.setHeldWrites(figures.held_writes);
  out.setErrors(figures.errors);
  out.setTook(Ns(figures.took));
  out.setReadyAfter(Ns(figures.ready_after));
  out.setCause(ToKj(figures.cause));
  out.setOver(mirror.over);
  if (mirror.over) {
    FillError(mirror.result, out.initResult());
    out.setEnd(ToRpc(mirror.end));
    out.setStandstill(Ns(mirror.standstill));
  }
}

MirrorStatus ReadMirror(control::Mirror::Reader in) {
  MirrorStatus mirror;
  migration::MirrorFigures& figures = mirror.figures;
  mirror.number = in.getNumber();
  mirror.disk = Copy(in.getDisk());
  mirror.target = Copy(in.getTarget());
  mirror.what = Copy(in.getWhat());
  figures.state = StateOf(FromKj(in.getState()));
  figures.copy_mode = in.getWriteBlocking() ? CopyMode::kWriteBlocking : CopyMode::kBackground;
  mirror.auto_complete = in.getAutoComplete();
  figures.total_bytes = in.getTotalBytes();
  figures.done_bytes = in.getDoneBytes();
  figures.dirty_bytes = in.getDirtyBytes();
  figures.in_flight_bytes = in.getInFlightBytes();
  figures.copied_bytes = in.getCopiedBytes();
  figures.zero_bytes = in.getZeroBytes();
  figures.again_bytes = in.getAgainBytes();
  figures.rate = in.getRate();
  figures.dirty_rate = in.getDirtyRate();
  figures.held_writes = in.getHeldWrites();
  figures.errors = in.getErrors();
  figures.took = absl::Nanoseconds(in.getTook());
  figures.ready_after = absl::Nanoseconds(in.getReadyAfter());
  figures.cause = Copy(in.getCause());
  mirror.over = in.getOver();
  if (mirror.over) {
    mirror.result = ReadError(in.getResult());
    mirror.end = FromRpc(in.getEnd());
    mirror.standstill = absl::Nanoseconds(in.getStandstill());
  }
  return mirror;
}

void FillMirrorOptions(const migration::MirrorOptions& options, control::MirrorOptions::Builder out) {
  out.setGranularity(options.granularity);
  out.setBufferBytes(options.buffer_bytes);
  out.setInFlight(options.in_flight);
  out.setWriteBlocking(options.copy_mode == CopyMode::kWriteBlocking);
  out.setMaxBandwidth(options.max_bandwidth);
  out.setOnSourceError(ToRpc(options.on_source_error));
  out.setOnTargetError(ToRpc(options.on_target_error));
  out.setDowntimeLimitNs(static_cast<uint64_t>(Ns(options.downtime_limit)));
}

migration::MirrorOptions ReadMirrorOptions(control::MirrorOptions::Reader in) {
  migration::MirrorOptions options;
  options.granularity = in.getGranularity();
  options.buffer_bytes = in.getBufferBytes();
  options.in_flight = in.getInFlight();
  options.copy_mode = in.getWriteBlocking() ? CopyMode::kWriteBlocking : CopyMode::kBackground;
  options.max_bandwidth = in.getMaxBandwidth();
  options.on_source_error = FromRpc(in.getOnSourceError());
  options.on_target_error = FromRpc(in.getOnTargetError());
  options.downtime_limit = absl::Nanoseconds(
      static_cast<int64_t>(std::min<uint64_t>(in.getDowntimeLimitNs(), std::numeric_limits<int64_t>::max())));
  return options;
}

}  // namespace ferrite
