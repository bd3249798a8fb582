#include "vmm/app/move_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "migration/api/downtime.h"
#include "migration/api/move_options.h"
#include "vmm/app/text.h"
#include "vmm/control/move_figures.h"

namespace ferrite {
namespace {

using Json = nlohmann::ordered_json;

double Ms(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

std::string Bytes(double bytes) { return RoundedByteSize(static_cast<uint64_t>(bytes < 0 ? 0 : bytes)); }

std::string WhoWaited(uint32_t vcpu) {
  return vcpu == migration::WaitingFigures::kMonitor ? "monitor" : fmt::format("vCPU {}", vcpu);
}

const char* PlaceName(GuestPlace place) {
  switch (place) {
    case GuestPlace::kHereRunning:
      return "here-running";
    case GuestPlace::kHerePaused:
      return "here-paused";
    case GuestPlace::kHereStopped:
      return "here-stopped";
    case GuestPlace::kThere:
      return "there";
    case GuestPlace::kTherePaused:
      return "there-paused";
    case GuestPlace::kHandedOver:
      break;
  }
  return "handed-over";
}

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

Json WaitingJson(const migration::MoveReport& report) {
  Json waiting = Json::array();
  for (const migration::WaitingFigures& figures : report.waiting) {
    Json one = {{"vcpu", nullptr},
                {"count", figures.count},
                {"p50_seconds", Seconds(figures.p50)},
                {"p99_seconds", Seconds(figures.p99)},
                {"max_seconds", Seconds(figures.max)},
                {"sum_seconds", Seconds(figures.sum)}};
    if (figures.vcpu != migration::WaitingFigures::kMonitor) {
      one["vcpu"] = figures.vcpu;
    }
    waiting.push_back(std::move(one));
  }
  return waiting;
}

std::string FormatWaiting(const migration::MoveReport& report) {
  std::string text;
  for (const migration::WaitingFigures& figures : report.waiting) {
    text += fmt::format("waiting        {}: {} times, p50 {:.3f} ms, p99 {:.3f} ms, max {:.3f} ms, sum {:.1f} ms\n",
                        WhoWaited(figures.vcpu), figures.count, Ms(figures.p50), Ms(figures.p99), Ms(figures.max),
                        Ms(figures.sum));
  }
  return text;
}

// Of the pages that the hardware lost; nothing where there are none.
std::string FormatLost(const migration::MoveReport& report) {
  if (report.lost_pages == 0) {
    return "";
  }
  std::string text = fmt::format("lost pages     {}:", report.lost_pages);
  for (const uint64_t address : report.lost_at) {
    text += fmt::format(" 0x{:x}", address);
  }
  return text + (report.lost_at.size() < report.lost_pages ? ", and others\n" : "\n");
}

// Of the page channels, where they were counted: how many were used, and why.
std::string FormatChannels(const migration::MoveReport& report) {
  if (!report.counted_channels) {
    return "";
  }
  std::string text = fmt::format("channels       {} of {}", report.channels, report.open_channels);
  for (size_t i = 0; i < report.channel_rates.size(); ++i) {
    text += fmt::format("{} {} carried {}/s", i == 0 ? ":" : ",", i + 1, Bytes(report.channel_rates[i]));
  }
  if (report.channel_rates.size() > report.channels) {
    return text + ", too little more\n";
  }
  if (report.channels >= report.open_channels) {
    return text + (report.open_channels < migration::kMostCountedChannels ? "; no more processors here\n"
                                                                          : "; no more are tried\n");
  }
  return text + (report.channel_rates.empty() ? ": too little went to measure\n" : "; too little went to try more\n");
}

// Of the page channels that broke alone.
std::string FormatBroken(const migration::MoveReport& report) {
  return report.broken_channels == 0
             ? ""
             : fmt::format("channels       {} broke behind the switchover; the others went on\n",
                           report.broken_channels);
}

// Of each disk.
std::string FormatParts(const migration::MoveReport& report) {
  std::string text;
  for (const migration::PartFigures& part : report.parts) {
    text += fmt::format("{:<14} {}: ", part.name, RoundedByteSize(part.bytes));
    if (part.shared) {
      text += "not copied, both sides reach it\n";
      continue;
    }
    text += fmt::format("{} data, {} zero, {} twice", RoundedByteSize(part.data_bytes),
                        RoundedByteSize(part.zero_bytes), RoundedByteSize(part.again_bytes));
    if (part.ready_after > absl::ZeroDuration()) {
      text += fmt::format(", ready after {:.1f} ms", Ms(part.ready_after));
    }
    text += part.write_blocking ? ", and then its writes waited for the destination\n" : "\n";
  }
  return text;
}

Json PartsJson(const std::vector<migration::PartFigures>& parts) {
  Json json = Json::array();
  for (const migration::PartFigures& part : parts) {
    Json one = {{"name", part.name},
                {"bytes", part.bytes},
                {"shared", part.shared},
                {"data_bytes", part.data_bytes},
                {"zero_bytes", part.zero_bytes},
                {"twice_bytes", part.again_bytes},
                {"ready_seconds", nullptr},
                {"write_blocking", part.write_blocking}};
    if (part.ready_after > absl::ZeroDuration()) {
      one["ready_seconds"] = Seconds(part.ready_after);
    }
    json.push_back(std::move(one));
  }
  return json;
}

// Whether disks go before memory begins.
bool CopiesDisks(const migration::MoveProgress& progress) {
  return progress.state == migration::MoveState::kActive &&
         std::any_of(progress.parts.begin(), progress.parts.end(), [](const migration::PartFigures& part) {
           return !part.shared && part.ready_after == absl::ZeroDuration();
         });
}

std::string HandedOver(const std::string& name) {
  return fmt::format(
      "here it stays paused and keeps its memory. `ferrite recover {}` goes on when the destination can be reached; "
      "`ferrite recover {} --here` takes it back when that is gone for good",
      name, name);
}

// Puts each figure of that side into `json` that it is called with.
auto IntoJson(const migration::MoveReport& report, FigureOf side, Json& json) {
  return [&report, side, &json](absl::string_view name, FigureOf whose, auto figure, auto /*set*/, auto /*get*/) {
    if (whose != side && whose != FigureOf::kBoth) {
      return;
    }
    if constexpr (std::is_same_v<decltype(figure), absl::Duration migration::MoveReport::*>) {
      json[absl::StrCat(name, "_seconds")] = Seconds(report.*figure);
    } else {
      json[std::string(name)] = report.*figure;
    }
  };
}

Json ReportJson(const migration::MoveReport& report) {
  Json parts;
  ForEachDowntimePart(IntoJson(report, FigureOf::kDeparture, parts));
  Json json = {{"postcopy", report.postcopy}};
  ForEachDuration(IntoJson(report, FigureOf::kDeparture, json));
  json["downtime_parts"] = std::move(parts);
  json["too_long"] = nullptr;
  if (const auto what = migration::WhatTookTooLong(report); what.has_value()) {
    json["too_long"] = std::string(*what);
  }
  ForEachCount(IntoJson(report, FigureOf::kDeparture, json));
  json["counted_channels"] = report.counted_channels;
  json["channel_rates"] = report.channel_rates;
  json["lost_at"] = report.lost_at;
  json["waiting"] = WaitingJson(report);
  return json;
}

}  // namespace

std::string FormatMoveProgress(const MoveStatus& move) {
  using migration::MoveState;
  const migration::MoveProgress& progress = move.progress;
  std::string text(migration::MoveStateName(progress.state));
  if (migration::IsFinal(progress.state)) {
    return text + fmt::format(": {} sent", RoundedByteSize(progress.sent_bytes));
  }
  if (CopiesDisks(progress)) {
    text += fmt::format(", disks first: {} sent, {} left, {}/s", RoundedByteSize(progress.sent_bytes),
                        RoundedByteSize(progress.remaining_bytes), Bytes(progress.rate));
    const bool waits = std::any_of(progress.parts.begin(), progress.parts.end(),
                                   [](const migration::PartFigures& part) { return part.write_blocking; });
    return text + (waits ? ", writes wait" : "");
  }
  if (progress.round == 0) {
    // Without rounds before it (post-copy) a guest stands still with all its memory left.
    return text + (progress.remaining_bytes > 0 ? fmt::format(": {} left", RoundedByteSize(progress.remaining_bytes))
                                                : std::string());
  }
  text += fmt::format(", round {}: {} sent, {} left, {}/s", progress.round, RoundedByteSize(progress.sent_bytes),
                      RoundedByteSize(progress.remaining_bytes), Bytes(progress.rate));
  if (progress.state == MoveState::kActive || progress.state == MoveState::kDevice) {
    if (progress.expected_downtime > absl::ZeroDuration()) {
      text += fmt::format(", dirties {}/s, expected downtime {:.1f} ms", Bytes(progress.dirty_rate),
                          Ms(progress.expected_downtime));
    }
    return text +
           (progress.throttle_percent > 0 ? fmt::format(", throttled {}%", progress.throttle_percent) : std::string());
  }
  return text + fmt::format(", {} faults", progress.faults);
}

std::string FormatMoveAccount(const migration::MoveReport& report) {
  std::string text = fmt::format(
      "total          {:.1f} ms, {}, {} rounds\n", Ms(report.total),
      report.postcopy ? "the guest went before its last memory (post-copy)" : "memory first (pre-copy)", report.rounds);
  text += fmt::format(
      "downtime       {:.2f} ms = stop {:.2f} + last pages {:.2f} + state {:.2f} + send {:.2f} + load {:.2f} + run "
      "{:.2f}\n",
      Ms(report.downtime), Ms(report.stop), Ms(report.last_pages), Ms(report.state), Ms(report.send), Ms(report.load),
      Ms(report.run));
  text += fmt::format(
      "waited         for a processor: {:.2f} ms here, {:.2f} ms there, {:.2f} ms until the guest ran there\n",
      Ms(report.source_wait), Ms(report.destination_wait), Ms(report.entry_wait));
  if (const auto what = migration::WhatTookTooLong(report); what.has_value()) {
    text +=
        fmt::format("too long       more than the limit of {} ms: {}\n", Ms(report.downtime_limit), std::string(*what));
  }
  text += fmt::format("pages          {} data, {} zero, {} skipped, {} twice\n", report.data_pages, report.zero_pages,
                      report.skipped_pages, report.resent_pages);
  text += FormatParts(report);
  if (report.huge_bytes > 0) {
    text +=
        fmt::format("huge pages     {} of the guest's memory before it moved\n", RoundedByteSize(report.huge_bytes));
  }
  text += fmt::format("sent           {} bytes ({})\n", report.bytes, RoundedByteSize(report.bytes));
  text += fmt::format("faults         {} demand, {} on pages that had arrived; {} pages asked for\n", report.faults,
                      report.minor_faults, report.requested_pages);
  text += fmt::format("prefetch       {} pages, {} hits\n", report.prefetched_pages, report.prefetch_hits);
  text += FormatLost(report);
  if (report.recoveries > 0) {
    text += fmt::format("recovered      {} times from a lost connection\n", report.recoveries);
  }
  text += FormatChannels(report) + FormatBroken(report);
  return text + FormatWaiting(report);
}

std::string FormatArrival(const migration::MoveReport& report) {
  std::string text =
      fmt::format("pages          {} data, {} zero or not needed\n", report.data_pages, report.zero_pages);
  text += fmt::format("received       {} bytes ({})\n", report.bytes, RoundedByteSize(report.bytes));
  text += fmt::format("landed         {} pages through a buffer, {} that changed hands with their block of 2 MiB\n",
                      report.copied_pages, report.moved_pages);
  if (report.huge_bytes > 0) {
    text +=
        fmt::format("huge pages     {} of the guest's memory; {} blocks of 2 MiB came in pieces and were made whole\n",
                    RoundedByteSize(report.huge_bytes), report.compacted_blocks);
  }
  text += fmt::format("standstill     load {:.2f} ms, run {:.2f} ms\n", Ms(report.load), Ms(report.run));
  text += fmt::format("waited         for a processor: {:.2f} ms, {:.2f} ms until the guest ran\n",
                      Ms(report.destination_wait), Ms(report.entry_wait));
  text += fmt::format("faults         {} demand, {} on pages that had arrived\n", report.faults, report.minor_faults);
  text += FormatLost(report);
  text += FormatBroken(report);
  return text + FormatWaiting(report);
}

std::string FormatGuestPlace(const std::string& name, const MoveStatus& move) {
  const std::string place = DescribePlace(move.guest, name, move.where);
  return move.guest == GuestPlace::kHandedOver ? absl::StrCat(place, "; ", HandedOver(name)) : place;
}

std::string FormatMoveFailure(const std::string& name, const MoveStatus& move) {
  absl::string_view reason = move.result.message();
  if (move.guest == GuestPlace::kHandedOver) {
    absl::ConsumeSuffix(&reason, "; this side stays paused and keeps the guest's memory");
    return absl::StrCat(reason, "; ", HandedOver(name));
  }
  return absl::StrCat(reason, "; ", FormatGuestPlace(name, move));
}

bool IsHandedOver(const MoveStatus& move) {
  return move.number != 0 && move.over && move.guest == GuestPlace::kHandedOver;
}

bool MissesMemory(const MoveStatus& arrival) {
  return arrival.number != 0 && !arrival.over && arrival.progress.state == migration::MoveState::kPostcopyPaused;
}

std::string FormatLastMove(const std::string& name, const MoveStatus& move) {
  if (!move.over) {
    return FormatMoveProgress(move);
  }
  if (move.result.ok()) {
    return "done";
  }
  if (!IsHandedOver(move)) {
    return std::string(move.result.message());
  }
  return fmt::format("{}. It was handed over {} ago. {} are missing there, as far as is known here",
                     FormatMoveFailure(name, move), FormatUptime(move.progress.granted_for),
                     RoundedByteSize(move.progress.remaining_bytes));
}

std::string FormatArrivalState(const std::string& name, const MoveStatus& arrival) {
  if (MissesMemory(arrival)) {
    return absl::StrCat("not yet: ", migration::MoveStateName(arrival.progress.state),
                        ": the connection to the source is lost. The guest came here ",
                        FormatUptime(arrival.progress.granted_for),
                        " ago, and runs on until it needs memory that is missing. `ferrite recover ", name,
                        "` at the source goes on; `ferrite stop ", name, "` ends it here");
  }
  if (!arrival.over) {
    return absl::StrCat("not yet: ", migration::MoveStateName(arrival.progress.state));
  }
  if (!arrival.result.ok()) {
    return std::string(arrival.result.message());
  }
  return arrival.report.postcopy ? "by post-copy" : "by pre-copy";
}

Json MoveJson(const MoveStatus& move) {
  if (move.number == 0) {
    return nullptr;
  }
  const migration::MoveProgress& progress = move.progress;
  Json json = {{"number", move.number},
               {"destination", move.where},
               {"state", std::string(migration::MoveStateName(progress.state))},
               {"round", progress.round},
               {"sent_bytes", progress.sent_bytes},
               {"remaining_bytes", progress.remaining_bytes},
               {"rate", progress.rate},
               {"dirty_rate", progress.dirty_rate},
               {"expected_downtime_seconds", absl::ToDoubleSeconds(progress.expected_downtime)},
               {"throttle_percent", progress.throttle_percent},
               {"faults", progress.faults},
               {"parts", PartsJson(progress.parts)},
               {"over", move.over}};
  if (move.over) {
    json["ok"] = move.result.ok();
    json["message"] = std::string(move.result.message());
    json["guest"] = PlaceName(move.guest);
    json["report"] = ReportJson(move.report);
  }
  if (IsHandedOver(move)) {
    json["handed_over_for_seconds"] = Seconds(progress.granted_for);
  }
  return json;
}

Json ArrivalJson(const MoveStatus& arrival) {
  if (arrival.number == 0) {
    return nullptr;
  }
  const migration::MoveReport& report = arrival.report;
  Json json = {{"over", arrival.over},
               {"state", std::string(migration::MoveStateName(arrival.progress.state))},
               {"ok", arrival.over && arrival.result.ok()},
               {"message", std::string(arrival.result.message())},
               {"postcopy", report.postcopy}};
  ForEachFigure(IntoJson(report, FigureOf::kArrival, json));
  json["lost_at"] = report.lost_at;
  json["waiting"] = WaitingJson(report);
  if (MissesMemory(arrival)) {
    json["here_for_seconds"] = Seconds(arrival.progress.granted_for);
  }
  return json;
}

}  // namespace ferrite
