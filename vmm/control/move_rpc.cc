#include "vmm/control/move_rpc.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/clean_text.h"
#include "base/processors.h"
#include "migration/api/rdma_options.h"
#include "vmm/control/move_figures.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

using migration::DiskMoves;
using migration::MoveMode;
using migration::MoveState;
using migration::RdmaOptions;
using migration::RdmaPin;

int64_t Ns(absl::Duration duration) { return absl::ToInt64Nanoseconds(duration); }

// By its name, since the schema has a text: what is told to clients is only ever added to.
MoveState StateOf(absl::string_view name) {
  static constexpr MoveState kStates[] = {
      MoveState::kNone,           MoveState::kSetup,          MoveState::kActive,          MoveState::kDevice,
      MoveState::kPostcopyActive, MoveState::kPostcopyPaused, MoveState::kPostcopyRecover, MoveState::kCompleted,
      MoveState::kFailing,        MoveState::kFailed,         MoveState::kCancelling,      MoveState::kCancelled,
  };
  for (const MoveState state : kStates) {
    if (migration::MoveStateName(state) == name) {
      return state;
    }
  }
  return MoveState::kNone;
}

control::Move::Place ToRpc(GuestPlace place) {
  switch (place) {
    case GuestPlace::kHereRunning:
      return control::Move::Place::HERE_RUNNING;
    case GuestPlace::kHerePaused:
      return control::Move::Place::HERE_PAUSED;
    case GuestPlace::kHereStopped:
      return control::Move::Place::HERE_STOPPED;
    case GuestPlace::kThere:
      return control::Move::Place::THERE;
    case GuestPlace::kTherePaused:
      return control::Move::Place::THERE_PAUSED;
    case GuestPlace::kHandedOver:
      break;
  }
  return control::Move::Place::HANDED_OVER;
}

GuestPlace FromRpc(control::Move::Place place) {
  switch (place) {
    case control::Move::Place::HERE_RUNNING:
      return GuestPlace::kHereRunning;
    case control::Move::Place::HERE_PAUSED:
      return GuestPlace::kHerePaused;
    case control::Move::Place::HERE_STOPPED:
      return GuestPlace::kHereStopped;
    case control::Move::Place::THERE:
      return GuestPlace::kThere;
    case control::Move::Place::THERE_PAUSED:
      return GuestPlace::kTherePaused;
    case control::Move::Place::HANDED_OVER:
      break;
  }
  return GuestPlace::kHandedOver;
}

// A duration is a number of nanoseconds in the schema.
auto ToSchema(absl::Duration duration) { return Ns(duration); }
template <typename Count>
Count ToSchema(Count count) {
  return count;
}
void FromSchema(int64_t ns, absl::Duration& out) { out = absl::Nanoseconds(ns); }
template <typename Count>
void FromSchema(Count count, Count& out) {
  out = count;
}

void FillReport(const migration::MoveReport& report, figures::MoveReport::Builder out) {
  out.setPostcopy(report.postcopy);
  ForEachFigure([&](const char* /*name*/, FigureOf /*whose*/, auto figure, auto set, auto /*get*/) {
    (out.*set)(ToSchema(report.*figure));
  });
  out.setCountedChannels(report.counted_channels);
  auto rates = out.initChannelRates(static_cast<uint32_t>(report.channel_rates.size()));
  for (uint32_t i = 0; i < rates.size(); ++i) {
    rates.set(i, report.channel_rates[i]);
  }
  auto lost_at = out.initLostAt(static_cast<uint32_t>(report.lost_at.size()));
  for (uint32_t i = 0; i < lost_at.size(); ++i) {
    lost_at.set(i, report.lost_at[i]);
  }
  auto waiting = out.initWaiting(static_cast<uint32_t>(report.waiting.size()));
  for (uint32_t i = 0; i < waiting.size(); ++i) {
    waiting[i].setVcpu(report.waiting[i].vcpu);
    waiting[i].setCount(report.waiting[i].count);
    waiting[i].setP50(Ns(report.waiting[i].p50));
    waiting[i].setP99(Ns(report.waiting[i].p99));
    waiting[i].setMax(Ns(report.waiting[i].max));
    waiting[i].setSum(Ns(report.waiting[i].sum));
  }
}

migration::MoveReport ReadReport(figures::MoveReport::Reader in) {
  migration::MoveReport report;
  report.postcopy = in.getPostcopy();
  ForEachFigure([&](const char* /*name*/, FigureOf /*whose*/, auto figure, auto /*set*/, auto get) {
    FromSchema((in.*get)(), report.*figure);
  });
  report.counted_channels = in.getCountedChannels();
  for (const uint64_t rate : in.getChannelRates()) {
    report.channel_rates.push_back(rate);
  }
  for (const uint64_t address : in.getLostAt()) {
    report.lost_at.push_back(address);
  }
  ReadList(in.getWaiting(), [&](auto waiting) {
    report.waiting.push_back({.vcpu = waiting.getVcpu(),
                              .count = waiting.getCount(),
                              .p50 = absl::Nanoseconds(waiting.getP50()),
                              .p99 = absl::Nanoseconds(waiting.getP99()),
                              .max = absl::Nanoseconds(waiting.getMax()),
                              .sum = absl::Nanoseconds(waiting.getSum())});
  });
  return report;
}

void FillParts(const std::vector<migration::PartFigures>& parts, control::Move::Builder out) {
  auto told = out.initParts(static_cast<uint32_t>(parts.size()));
  for (uint32_t i = 0; i < told.size(); ++i) {
    told[i].setName(ToKj(parts[i].name));
    told[i].setBytes(parts[i].bytes);
    told[i].setDataBytes(parts[i].data_bytes);
    told[i].setZeroBytes(parts[i].zero_bytes);
    told[i].setAgainBytes(parts[i].again_bytes);
    told[i].setReadyAfter(Ns(parts[i].ready_after));
    told[i].setWriteBlocking(parts[i].write_blocking);
    told[i].setShared(parts[i].shared);
  }
}

std::vector<migration::PartFigures> ReadParts(control::Move::Reader in) {
  std::vector<migration::PartFigures> parts;
  ReadList(in.getParts(), [&](auto part) {
    parts.push_back({.name = CleanText(FromKj(part.getName())),
                     .bytes = part.getBytes(),
                     .data_bytes = part.getDataBytes(),
                     .zero_bytes = part.getZeroBytes(),
                     .again_bytes = part.getAgainBytes(),
                     .ready_after = absl::Nanoseconds(part.getReadyAfter()),
                     .write_blocking = part.getWriteBlocking(),
                     .shared = part.getShared()});
  });
  return parts;
}

}  // namespace

void FillMove(const MoveStatus& move, control::Move::Builder out) {
  const migration::MoveProgress& progress = move.progress;
  out.setNumber(move.number);
  out.setDestination(ToKj(move.where));
  out.setState(std::string(migration::MoveStateName(progress.state)));
  out.setRound(progress.round);
  out.setSentBytes(progress.sent_bytes);
  out.setRemainingBytes(progress.remaining_bytes);
  out.setRate(progress.rate);
  out.setDirtyRate(progress.dirty_rate);
  out.setExpectedDowntime(Ns(progress.expected_downtime));
  out.setThrottlePercent(static_cast<uint8_t>(progress.throttle_percent));
  out.setFaults(progress.faults);
  out.setGrantedFor(Ns(progress.granted_for));
  out.setOver(move.over);
  FillParts(move.over ? move.report.parts : progress.parts, out);
  if (move.over) {
    FillError(move.result, out.initResult());
    out.setGuest(ToRpc(move.guest));
    FillReport(move.report, out.initReport());
  }
}

MoveStatus ReadMove(control::Move::Reader in) {
  MoveStatus move;
  move.number = in.getNumber();
  move.where = CleanText(FromKj(in.getDestination()), kMaxLongText);
  move.progress.state = StateOf(FromKj(in.getState()));
  move.progress.round = in.getRound();
  move.progress.sent_bytes = in.getSentBytes();
  move.progress.remaining_bytes = in.getRemainingBytes();
  move.progress.rate = in.getRate();
  move.progress.dirty_rate = in.getDirtyRate();
  move.progress.expected_downtime = absl::Nanoseconds(in.getExpectedDowntime());
  move.progress.throttle_percent = in.getThrottlePercent();
  move.progress.faults = in.getFaults();
  move.progress.granted_for = absl::Nanoseconds(in.getGrantedFor());
  move.over = in.getOver();
  move.progress.parts = ReadParts(in);
  if (move.over) {
    move.result = ReadError(in.getResult());
    move.guest = FromRpc(in.getGuest());
    move.report = ReadReport(in.getReport());
    move.report.parts = move.progress.parts;
  }
  return move;
}

void FillMoveOptions(const migration::MoveOptions& options, control::MoveOptions::Builder out) {
  switch (options.mode) {
    case MoveMode::kAuto:
      out.setMode(control::MoveOptions::Mode::AUTO);
      break;
    case MoveMode::kPrecopy:
      out.setMode(control::MoveOptions::Mode::PRECOPY);
      break;
    case MoveMode::kPostcopy:
      out.setMode(control::MoveOptions::Mode::POSTCOPY);
      break;
  }
  out.setDowntimeLimitNs(static_cast<uint64_t>(Ns(options.downtime_limit)));
  out.setMaxBandwidth(options.max_bandwidth);
  out.setMaxPostcopyBandwidth(options.max_postcopy_bandwidth);
  // How many that are the monitor knows, which knows its processors.
  out.setChannels(options.count_channels ? 0 : static_cast<uint16_t>(options.channels));
  out.setTimeoutNs(options.timeout == absl::InfiniteDuration() ? 0 : static_cast<uint64_t>(Ns(options.timeout)));
  out.setPostcopyOnTimeout(options.on_timeout == migration::OnTimeout::kPostcopy);
  out.setRecoverForNs(static_cast<uint64_t>(Ns(options.recover_for)));
  out.setPatienceNs(static_cast<uint64_t>(Ns(options.patience)));
  switch (options.disks) {
    case DiskMoves::kAuto:
      out.setDisks(control::MoveOptions::Disks::AUTO);
      break;
    case DiskMoves::kShared:
      out.setDisks(control::MoveOptions::Disks::SHARED);
      break;
    case DiskMoves::kMirror:
      out.setDisks(control::MoveOptions::Disks::MIRROR);
      break;
  }
  out.setRdmaPinAll(options.rdma.pin == RdmaPin::kAll);
  out.setRdmaChunk(options.rdma.chunk_bytes);
}

migration::MoveOptions ReadMoveOptions(control::MoveOptions::Reader in) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  migration::MoveOptions options;
  switch (in.getMode()) {
    case control::MoveOptions::Mode::PRECOPY:
      options.mode = MoveMode::kPrecopy;
      break;
    case control::MoveOptions::Mode::POSTCOPY:
      options.mode = MoveMode::kPostcopy;
      break;
    default:
      options.mode = MoveMode::kAuto;
      break;
  }
  options.downtime_limit = absl::Nanoseconds(static_cast<int64_t>(std::min(in.getDowntimeLimitNs(), kMost)));
  options.max_bandwidth = in.getMaxBandwidth();
  options.max_postcopy_bandwidth = in.getMaxPostcopyBandwidth();
  options.count_channels = in.getChannels() == 0;
  options.channels = options.count_channels ? migration::MostChannelsFor(UsableProcessors()) : in.getChannels();
  if (in.getTimeoutNs() != 0) {
    options.timeout = absl::Nanoseconds(static_cast<int64_t>(std::min(in.getTimeoutNs(), kMost)));
  }
  options.on_timeout = in.getPostcopyOnTimeout() ? migration::OnTimeout::kPostcopy : migration::OnTimeout::kCancel;
  options.recover_for = absl::Nanoseconds(static_cast<int64_t>(std::min(in.getRecoverForNs(), kMost)));
  options.patience = absl::Nanoseconds(static_cast<int64_t>(std::min(in.getPatienceNs(), kMost)));
  switch (in.getDisks()) {
    case control::MoveOptions::Disks::SHARED:
      options.disks = DiskMoves::kShared;
      break;
    case control::MoveOptions::Disks::MIRROR:
      options.disks = DiskMoves::kMirror;
      break;
    default:
      options.disks = DiskMoves::kAuto;
      break;
  }
  options.rdma.pin = in.getRdmaPinAll() ? RdmaPin::kAll : RdmaPin::kChunks;
  options.rdma.chunk_bytes =
      std::bit_floor(std::clamp(in.getRdmaChunk(), migration::kLeastRdmaChunk, migration::kMostRdmaChunk));
  return options;
}

void FillTlsOptions(const migration::TlsOptions& options, control::TlsOptions::Builder out) {
  out.setDirectory(ToKj(options.directory));
  out.setPskFile(ToKj(options.psk_file));
  out.setHostname(ToKj(options.hostname));
}

migration::TlsOptions ReadTlsOptions(control::TlsOptions::Reader in) {
  return {.directory = std::string(FromKj(in.getDirectory())),
          .psk_file = std::string(FromKj(in.getPskFile())),
          .hostname = std::string(FromKj(in.getHostname()))};
}

}  // namespace ferrite
