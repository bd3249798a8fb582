#include "bench/one_move.h"

#include <x86intrin.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "bench/hole_watch.h"
#include "bench/process_figures.h"
#include "bench/work_directory.h"
#include "tests/fakes/tls_place.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kLimit = absl::Seconds(60);
constexpr double kNsPerMs = 1e6;
constexpr double kNsPerUs = 1e3;
constexpr double kMsPerSecond = 1e3;
constexpr uint64_t kMiB = 1 << 20;
// The guest looks for commands every 5 ms.
constexpr absl::Duration kCommand = absl::Milliseconds(20);
// The quickest of so many lines tells how far apart the guest's clock and this host's are, but for this much.
constexpr int kClockTries = 5;
constexpr double kClockNoiseMs = 3;

// A line of the guest's, "name=number name=number ...".
class GuestLine {
 public:
  explicit GuestLine(std::string text) : text_(std::move(text)), heard_(__rdtsc()) {}

  absl::StatusOr<double> Number(absl::string_view name) const {
    for (absl::string_view word : absl::StrSplit(text_, ' ')) {
      double value = 0;
      if (absl::ConsumePrefix(&word, absl::StrCat(name, "=")) && absl::SimpleAtod(word, &value)) {
        return value;
      }
    }
    return absl::InternalError(absl::StrCat("no ", name, " in the guest's line: ", text_));
  }
  const std::string& text() const { return text_; }
  // This host's time stamp when it had come.
  double heard() const { return static_cast<double>(heard_); }

 private:
  std::string text_;
  uint64_t heard_;
};

class Measurement {
 public:
  Measurement(const MoveInputs& inputs, const GuestTask& task, SocketKind socket, absl::Duration downtime_limit,
              const Contender& contender)
      : inputs_(inputs),
        task_(task),
        tls_(contender.tls ? std::make_unique<migration::TlsPlace>() : nullptr),
        pair_(GuestPair::Make(contender, Setup(socket, downtime_limit))) {}

  absl::StatusOr<Json> Run() {
    FERRITE_RETURN_IF_ERROR(Start());
    if (!task_.paused) {
      FERRITE_RETURN_IF_ERROR(WatchBefore());
    }
    // The destination's memory, and half as much again.
    FERRITE_RETURN_IF_ERROR(TouchFreeMemory(inputs_.memory_mib * kMiB * 3 / 2));
    FERRITE_RETURN_IF_ERROR(Move());
    if (!task_.paused) {
      FERRITE_RETURN_IF_ERROR(WatchAfter());
    }
    FERRITE_RETURN_IF_ERROR(CheckAndStop());
    return std::move(figures_);
  }

 private:
  PairSetup Setup(SocketKind socket, absl::Duration downtime_limit) const {
    return {.memory_mib = inputs_.memory_mib,
            .command_line = absl::StrCat("report_ms=1000000000 waits=", task_.waits ? 1 : 0, " set=", inputs_.set_mib,
                                         "M ", task_.options),
            .directory = directory_.path(),
            .socket = socket,
            .downtime_limit = downtime_limit,
            .qemu = inputs_.qemu,
            .tls_directory = tls_ != nullptr ? tls_->directory() : "",
            .run_arguments = inputs_.run_arguments,
            .move_arguments = inputs_.move_arguments};
  }

  static absl::StatusOr<GuestLine> Hear(MonitorProcess& monitor, const char* event) {
    FERRITE_ASSIGN_OR_RETURN(std::string text, monitor.WaitForLine(absl::StrCat("event=", event, " "), kLimit));
    return GuestLine(std::move(text));
  }

  // Of the gaps and waits since they were forgotten.
  static absl::StatusOr<GuestLine> AskWaits(MonitorProcess& monitor) {
    FERRITE_RETURN_IF_ERROR(monitor.Write("w"));
    return Hear(monitor, "waits");
  }

  static absl::Status ForgetGaps(MonitorProcess& monitor) {
    FERRITE_RETURN_IF_ERROR(monitor.Write("z"));
    absl::SleepFor(kCommand);
    return absl::OkStatus();
  }

  absl::Status Start() {
    FERRITE_RETURN_IF_ERROR(TouchFreeMemory(inputs_.memory_mib * kMiB * 5 / 2));
    FERRITE_RETURN_IF_ERROR(pair_->StartSource());
    FERRITE_ASSIGN_OR_RETURN(const GuestLine ready, Hear(pair_->source(), "ready"));
    FERRITE_ASSIGN_OR_RETURN(const GuestLine filled, Hear(pair_->source(), "filled"));
    FERRITE_ASSIGN_OR_RETURN(tsc_khz_, ready.Number("tsc_khz"));
    FERRITE_ASSIGN_OR_RETURN(const double begin, ready.Number("tsc"));
    FERRITE_ASSIGN_OR_RETURN(const double end, filled.Number("tsc"));
    figures_["first_write_ms"] = (end - begin) / tsc_khz_;
    return pair_->StartDestination();
  }

  // Writes a second between two of its lines.
  absl::StatusOr<double> Speed(const GuestLine& from, const GuestLine& to) const {
    FERRITE_ASSIGN_OR_RETURN(const double writes_before, from.Number("writes"));
    FERRITE_ASSIGN_OR_RETURN(const double writes, to.Number("writes"));
    FERRITE_ASSIGN_OR_RETURN(const double begin, from.Number("tsc"));
    FERRITE_ASSIGN_OR_RETURN(const double end, to.Number("tsc"));
    return (writes - writes_before) / ((end - begin) / tsc_khz_) * kMsPerSecond;
  }

  // By how much the guest's time stamps are ahead of this host's. A line is heard after it was sent.
  static absl::StatusOr<double> ClockAhead(MonitorProcess& monitor) {
    double ahead = -std::numeric_limits<double>::infinity();
    for (int i = 0; i < kClockTries; ++i) {
      FERRITE_ASSIGN_OR_RETURN(const GuestLine line, AskWaits(monitor));
      FERRITE_ASSIGN_OR_RETURN(const double tsc, line.Number("tsc"));
      ahead = std::max(ahead, tsc - line.heard());
    }
    return ahead;
  }

  // The gaps that this host makes by itself, and the guest's own speed.
  absl::Status WatchBefore() {
    MonitorProcess& source = pair_->source();
    FERRITE_RETURN_IF_ERROR(ForgetGaps(source));
    FERRITE_ASSIGN_OR_RETURN(const GuestLine before, AskWaits(source));
    absl::SleepFor(inputs_.quiet);
    FERRITE_ASSIGN_OR_RETURN(const GuestLine after, AskWaits(source));
    FERRITE_ASSIGN_OR_RETURN(const double gap, after.Number("gap_ns"));
    figures_["quiet_gap_ms"] = gap / kNsPerMs;
    FERRITE_ASSIGN_OR_RETURN(clock_ahead_, ClockAhead(source));
    if (task_.writes) {
      FERRITE_ASSIGN_OR_RETURN(const double speed, Speed(before, after));
      figures_["speed_before"] = speed;
    }
    return absl::OkStatus();
  }

  absl::Status Move() {
    FERRITE_ASSIGN_OR_RETURN(const double huge_before, HugeMiB(pair_->source().pid(), inputs_.memory_mib));
    figures_["huge_before_mib"] = huge_before;
    FERRITE_RETURN_IF_ERROR(task_.paused ? pair_->Pause() : ForgetGaps(pair_->source()));
    FERRITE_ASSIGN_OR_RETURN(const auto holes, HoleWatch::Start(static_cast<uint64_t>(tsc_khz_)));
    figures_["watch_real_time"] = holes->real_time() ? 1 : 0;
    const double source_cpu = pair_->source().CpuSeconds();
    const pid_t destination = pair_->destination().pid();
    FERRITE_ASSIGN_OR_RETURN(const double destination_cpu, CpuOfProcess(destination));
    FERRITE_ASSIGN_OR_RETURN(const Json moved, pair_->Move());
    FERRITE_ASSIGN_OR_RETURN(const double destination_cpu_then, CpuOfProcess(destination));
    // The guest's own time, all of which is from behind the switchover.
    FERRITE_ASSIGN_OR_RETURN(const double guest_cpu, CpuOfThreads(destination, pair_->vcpu_threads()));
    figures_.update(moved);
    figures_["destination_cpu_s"] = destination_cpu_then - destination_cpu - guest_cpu;
    FERRITE_ASSIGN_OR_RETURN(const double huge_after, HugeMiB(destination, inputs_.memory_mib));
    figures_["huge_after_mib"] = huge_after;
    figures_["sent_part"] = figures_.value("bytes", 0.0) / static_cast<double>(inputs_.set_mib * kMiB);
    if (task_.paused) {
      FERRITE_RETURN_IF_ERROR(pair_->Resume());
    } else {
      FERRITE_ASSIGN_OR_RETURN(const GuestLine waits, AskWaits(pair_->destination()));
      FERRITE_RETURN_IF_ERROR(NoteGap(waits, holes->Stop()));
    }
    FERRITE_RETURN_IF_ERROR(pair_->EndSource());
    figures_["source_cpu_s"] = pair_->source().CpuSeconds() - source_cpu;
    return absl::OkStatus();
  }

  absl::Status NoteGap(const GuestLine& waits, const std::vector<Hole>& holes) {
    FERRITE_ASSIGN_OR_RETURN(const double gap, waits.Number("gap_ns"));
    FERRITE_ASSIGN_OR_RETURN(const double gap_end, waits.Number("gap_end"));
    FERRITE_ASSIGN_OR_RETURN(const double ahead, ClockAhead(pair_->destination()));
    // A guest whose time stamps stood still while it moved saw less of the gap than there was.
    const double lost_ms = (clock_ahead_ - ahead) / tsc_khz_;
    figures_["clock_lost_ms"] = lost_ms > kClockNoiseMs ? lost_ms : 0;
    // Most guests have this host's time stamps.
    const double offset = std::abs(ahead) / tsc_khz_ > kClockNoiseMs ? ahead : 0;
    const double end = gap_end - offset;
    const double begin = end - gap / kNsPerMs * tsc_khz_;
    const double in_holes =
        static_cast<double>(TicksInHoles(holes, static_cast<uint64_t>(begin), static_cast<uint64_t>(end))) / tsc_khz_;
    figures_["gap_ms"] = gap / kNsPerMs;
    figures_["gap_in_holes_ms"] = in_holes;
    figures_["holes_ms"] = static_cast<double>(TicksInHoles(holes, 0, UINT64_MAX)) / tsc_khz_;
    if (in_holes == 0) {
      figures_["clean_gap_ms"] = gap / kNsPerMs;
    }
    if (task_.waits) {
      FERRITE_ASSIGN_OR_RETURN(const double count, waits.Number("count"));
      FERRITE_ASSIGN_OR_RETURN(const double p50, waits.Number("p50_ns"));
      FERRITE_ASSIGN_OR_RETURN(const double p99, waits.Number("p99_ns"));
      FERRITE_ASSIGN_OR_RETURN(const double sum, waits.Number("sum_ns"));
      figures_["waits"] = count;
      figures_["wait_p50_us"] = p50 / kNsPerUs;
      figures_["wait_p99_us"] = p99 / kNsPerUs;
      figures_["wait_sum_ms"] = sum / kNsPerMs;
    }
    return absl::OkStatus();
  }

  // Half way through the time in which the guest settles: what was collapsed meanwhile counts. At its end: its speed.
  absl::Status WatchAfter() {
    MonitorProcess& destination = pair_->destination();
    absl::SleepFor(inputs_.settle / 2);
    FERRITE_ASSIGN_OR_RETURN(const double huge, HugeMiB(destination.pid(), inputs_.memory_mib));
    figures_["huge_settled_mib"] = huge;
    if (const double before = figures_["huge_before_mib"]; before > 0) {
      figures_["huge_part"] = huge / before;
    }
    absl::SleepFor(inputs_.settle / 2);
    if (task_.writes) {
      FERRITE_ASSIGN_OR_RETURN(const GuestLine before, AskWaits(destination));
      absl::SleepFor(inputs_.quiet);
      FERRITE_ASSIGN_OR_RETURN(const GuestLine after, AskWaits(destination));
      FERRITE_ASSIGN_OR_RETURN(const double speed, Speed(before, after));
      figures_["speed_after"] = speed;
      figures_["speed_part"] = speed / static_cast<double>(figures_["speed_before"]);
    }
    return absl::OkStatus();
  }

  absl::Status CheckAndStop() {
    MonitorProcess& destination = pair_->destination();
    FERRITE_RETURN_IF_ERROR(destination.Write("q"));
    FERRITE_ASSIGN_OR_RETURN(const GuestLine check, Hear(destination, "check"));
    FERRITE_ASSIGN_OR_RETURN(const double errors, check.Number("errors"));
    FERRITE_ASSIGN_OR_RETURN(const double pages, check.Number("pages"));
    if (errors != 0 || pages == 0) {
      return absl::DataLossError(absl::StrCat("the guest found errors in its memory: ", check.text()));
    }
    figures_["wrong_pages"] = errors;
    figures_["checked_pages"] = pages;
    return destination.WaitForEnd().status();
  }

  const MoveInputs& inputs_;
  const GuestTask& task_;
  const std::unique_ptr<migration::TlsPlace> tls_;
  const WorkDirectory directory_;
  const std::unique_ptr<GuestPair> pair_;
  double tsc_khz_ = 0;
  double clock_ahead_ = 0;
  Json figures_ = Json::object();
};

}  // namespace

absl::StatusOr<Json> MeasureMove(const MoveInputs& inputs, const GuestTask& task, SocketKind socket,
                                 absl::Duration downtime_limit, const Contender& contender) {
  return Measurement(inputs, task, socket, downtime_limit, contender).Run();
}

}  // namespace ferrite
