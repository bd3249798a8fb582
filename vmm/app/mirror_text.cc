#include "vmm/app/mirror_text.h"

#include <fmt/format.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/byte_size.h"

namespace ferrite {
namespace {

using Json = nlohmann::ordered_json;
using migration::CopyMode;
using migration::MirrorState;

std::string Rate(double bytes_per_second) {
  return absl::StrCat(RoundedByteSize(static_cast<uint64_t>(bytes_per_second < 0 ? 0 : bytes_per_second)), "/s");
}

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

const char* EndName(MirrorEnd end) {
  switch (end) {
    case MirrorEnd::kRemoved:
      return "removed";
    case MirrorEnd::kKept:
      return "kept";
    case MirrorEnd::kDisk:
      return "disk";
    case MirrorEnd::kLeft:
      break;
  }
  return "left";
}

}  // namespace

std::string FormatMirrorProgress(const MirrorStatus& mirror) {
  const migration::MirrorFigures& figures = mirror.figures;
  std::string text = fmt::format("{}: {} of {} done, {} left", std::string(migration::MirrorStateName(figures.state)),
                                 RoundedByteSize(figures.done_bytes), RoundedByteSize(figures.total_bytes),
                                 RoundedByteSize(figures.dirty_bytes + figures.in_flight_bytes));
  if (figures.state == MirrorState::kRunning || figures.state == MirrorState::kReady ||
      figures.state == MirrorState::kCompleting) {
    text += fmt::format(", {}", Rate(figures.rate));
    if (figures.dirty_rate >= 1) {
      text += fmt::format(", guest writes {}", Rate(figures.dirty_rate));
    }
  }
  if (figures.copy_mode == CopyMode::kWriteBlocking) {
    text += ", write-blocking";
  }
  if (!figures.cause.empty()) {
    text += fmt::format("; {}", figures.cause);
  }
  return text;
}

std::string FormatMirrorEnd(const MirrorStatus& mirror) {
  switch (mirror.end) {
    case MirrorEnd::kDisk:
      return fmt::format("{} is {} now; the old image is closed, and as it was at that instant", mirror.disk,
                         mirror.target);
    case MirrorEnd::kKept:
      return fmt::format("{} is a whole copy of {}; the machine stays with its own image", mirror.target, mirror.disk);
    case MirrorEnd::kRemoved:
      return fmt::format("{} stays with its own image; {} was removed", mirror.disk, mirror.target);
    case MirrorEnd::kLeft:
      break;
  }
  return fmt::format("{} stays with its own image; {} is no whole copy", mirror.disk, mirror.target);
}

std::string FormatMirrorAccount(const MirrorStatus& mirror) {
  const migration::MirrorFigures& figures = mirror.figures;
  const auto row = [](const char* name, const std::string& value) { return fmt::format("{:<14} {}\n", name, value); };
  std::string text = row("target", fmt::format("{}: {}", mirror.target, mirror.what));
  text += row("time",
              figures.ready_after > absl::ZeroDuration()
                  ? fmt::format("{:.3f} s, ready after {:.3f} s", Seconds(figures.took), Seconds(figures.ready_after))
                  : fmt::format("{:.3f} s", Seconds(figures.took)));
  if (mirror.standstill > absl::ZeroDuration()) {
    text +=
        row("standstill", fmt::format("{:.3f} ms, of the disk only", absl::ToDoubleMilliseconds(mirror.standstill)));
  }
  text += row("copied", fmt::format("{}, {} of it zero, {} more than once", RoundedByteSize(figures.copied_bytes),
                                    RoundedByteSize(figures.zero_bytes), RoundedByteSize(figures.again_bytes)));
  text +=
      row("mode", std::string(migration::CopyModeName(figures.copy_mode)) +
                      (figures.held_writes > 0 ? fmt::format(", {} writes waited for the target", figures.held_writes)
                                               : std::string()));
  if (figures.errors > 0) {
    text += row("errors", std::to_string(figures.errors));
  }
  return text;
}

std::string FormatLastMirror(const MirrorStatus& mirror) {
  if (!mirror.over) {
    return fmt::format("to {}: {}", mirror.target, FormatMirrorProgress(mirror));
  }
  return fmt::format("to {}: {}: {}{}", mirror.target, std::string(migration::MirrorStateName(mirror.figures.state)),
                     mirror.result.ok() ? std::string() : absl::StrCat(mirror.result.message(), "; "),
                     FormatMirrorEnd(mirror));
}

Json MirrorJson(const MirrorStatus& mirror) {
  if (mirror.number == 0) {
    return nullptr;
  }
  const migration::MirrorFigures& figures = mirror.figures;
  Json json = {
      {"number", mirror.number},
      {"disk", mirror.disk},
      {"target", mirror.target},
      {"what", mirror.what},
      {"state", std::string(migration::MirrorStateName(figures.state))},
      {"copy_mode", std::string(migration::CopyModeName(figures.copy_mode))},
      {"auto_complete", mirror.auto_complete},
      {"total_bytes", figures.total_bytes},
      {"done_bytes", figures.done_bytes},
      {"dirty_bytes", figures.dirty_bytes},
      {"in_flight_bytes", figures.in_flight_bytes},
      {"copied_bytes", figures.copied_bytes},
      {"zero_bytes", figures.zero_bytes},
      {"again_bytes", figures.again_bytes},
      {"rate", figures.rate},
      {"dirty_rate", figures.dirty_rate},
      {"held_writes", figures.held_writes},
      {"errors", figures.errors},
      {"took_seconds", Seconds(figures.took)},
      {"ready_after_seconds", nullptr},
      {"cause", nullptr},
      {"over", mirror.over},
      {"error", nullptr},
      {"end", nullptr},
      {"standstill_seconds", nullptr},
  };
  if (figures.ready_after > absl::ZeroDuration()) {
    json["ready_after_seconds"] = Seconds(figures.ready_after);
  }
  if (!figures.cause.empty()) {
    json["cause"] = figures.cause;
  }
  if (mirror.over) {
    json["end"] = EndName(mirror.end);
    json["standstill_seconds"] = Seconds(mirror.standstill);
    if (!mirror.result.ok()) {
      json["error"] = std::string(mirror.result.message());
    }
  }
  return json;
}

}  // namespace ferrite
