// A machine moves between two monitors, each `ferrite` process of its own, and what that costs is set beside the limits
// of this host, measured in the same run, in turns. The guest fills memory with what does not compress, writes to a
// part of it, and tells how long it stood still (the longest time between two of its time stamps) and how long its
// writes waited.
//
//   rounds=3         of everything below
//   memory=1024      MiB of the guest
//   set=768          MiB that it fills
//   hot=256          MiB that it writes to, at full speed
//   only=TEXT        only the cases whose name holds TEXT ("random postcopy tcp" is one)
//   verbose=0        1: the account of each move

#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "bench/monitor_process.h"
#include "bench/move_limits.h"
#include "bench/samples.h"
#include "bench/where.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr absl::Duration kQuiet = absl::Milliseconds(500);
constexpr uint64_t kMiB = 1 << 20;
constexpr double kMs = 1e3;
constexpr double kUs = 1e6;

struct Inputs {
  int rounds;
  uint64_t memory;
  uint64_t set;
  uint64_t hot;
  std::string only;
  bool verbose;
};

struct Case {
  const char* guest;  // what it does
  const char* options;
  const char* mode;
  SocketKind kind;
  bool paused = false;

  std::string Name() const { return absl::StrCat(guest, " ", mode, " ", SocketKindName(kind)); }
};

// What the rounds of one case came to.
struct Figures {
  Samples total_ms;
  Samples gib_per_second;
  Samples gap_ms;        // with the move in it
  Samples quiet_gap_ms;  // as long before the move
  Samples downtime_ms;   // the monitor's account
  Samples guest_p50_us;  // writes that waited, as the guest saw it
  Samples guest_p99_us;
  Samples fault_p50_us;  // the destination's account
  Samples fault_p99_us;
  Samples faults;
  Samples source_cpu;
  Samples destination_cpu;
  double moved_bytes = 0;
};

class Directory {
 public:
  Directory() { path_ = mkdtemp(path_.data()); }
  ~Directory() { (void)!system(absl::StrCat("rm -rf ", path_).c_str()); }
  const std::string& path() const { return path_; }

 private:
  // Memory, as /run is on most hosts: the record of the hand-over is synced while the guest stands still.
  std::string path_ = "/dev/shm/ferrite-bench-XXXXXX";
};

// The number of `name`=NUMBER in a line of the guest's.
double Field(const std::string& line, absl::string_view name) {
  for (absl::string_view word : absl::StrSplit(line, ' ')) {
    double value = 0;
    if (absl::ConsumePrefix(&word, absl::StrCat(name, "=")) && absl::SimpleAtod(word, &value)) {
      return value;
    }
  }
  return 0;
}

// One move, from the start of a machine to its end at the other monitor, where it has checked all of its memory.
class OneMove {
 public:
  OneMove(const Inputs& inputs, const Case& what, Figures& figures) : inputs_(inputs), case_(what), figures_(figures) {}

  absl::Status Run() {
    FERRITE_RETURN_IF_ERROR(StartBoth());
    if (!case_.paused) {
      FERRITE_ASSIGN_OR_RETURN(const std::string quiet, WatchWithoutMove());
      figures_.quiet_gap_ms.Add(Field(quiet, "gap_ns") * 1e-9 * kMs);
    }
    // The destination's memory, and some.
    FERRITE_RETURN_IF_ERROR(TouchFreeMemory(inputs_.memory * kMiB + 256 * kMiB));
    if (case_.paused) {
      FERRITE_RETURN_IF_ERROR(Command({"pause", "bench"}, "here"));
    } else {
      FERRITE_RETURN_IF_ERROR(source_->Write("z"));
      absl::SleepFor(absl::Milliseconds(20));
    }
    const double source_before = source_->CpuSeconds();
    const double destination_before = destination_->CpuSeconds();
    FERRITE_ASSIGN_OR_RETURN(const Json report, Move());
    figures_.destination_cpu.Add(destination_->CpuSeconds() - destination_before);
    FERRITE_RETURN_IF_ERROR(source_->WaitForEnd().status());
    figures_.source_cpu.Add(source_->CpuSeconds() - source_before);
    if (case_.paused) {
      FERRITE_RETURN_IF_ERROR(Command({"resume", "bench"}, "there"));
    } else {
      FERRITE_RETURN_IF_ERROR(destination_->Write("w"));
      FERRITE_ASSIGN_OR_RETURN(const std::string waits, destination_->WaitForLine("event=waits", kTimeout));
      figures_.gap_ms.Add(Field(waits, "gap_ns") * 1e-9 * kMs);
      if (Field(waits, "count") > 0) {
        figures_.guest_p50_us.Add(Field(waits, "p50_ns") * 1e-9 * kUs);
        figures_.guest_p99_us.Add(Field(waits, "p99_ns") * 1e-9 * kUs);
      }
    }
    Note(report);
    return CheckAndStop();
  }

 private:
  absl::Status StartBoth() {
    FERRITE_RETURN_IF_ERROR(TouchFreeMemory(inputs_.memory * kMiB));
    FERRITE_ASSIGN_OR_RETURN(
        source_,
        MonitorProcess::Start(
            {Program(), "run", "--run-dir", Side("here"), "--name", "bench", "--kernel", DataPath("tests/guest/dirty"),
             "--mem", absl::StrCat(inputs_.memory, "M"), "--console", "stdio", "--cmdline",
             absl::StrCat("report_ms=1000000 waits=1 set=", inputs_.set, "M hot=", inputs_.hot, "M ", case_.options)}));
    FERRITE_RETURN_IF_ERROR(source_->WaitFor("event=filled", kTimeout).status());
    const std::string listen =
        case_.kind == SocketKind::kTcp ? "tcp:127.0.0.1:0" : absl::StrCat("unix:", directory_.path(), "/socket");
    FERRITE_ASSIGN_OR_RETURN(
        destination_,
        MonitorProcess::Start({Program(), "receive", "--run-dir", Side("there"), "--name", "bench", "--listen", listen,
                               "--kernel", DataPath("tests/guest/dirty"), "--console", "stdio"}));
    FERRITE_ASSIGN_OR_RETURN(const std::string line, destination_->WaitForLine(" waits at ", kTimeout));
    address_ = line.substr(line.rfind(' ') + 1);
    return absl::OkStatus();
  }

  // The longest hole that this host makes by itself, over about the time of a move.
  absl::StatusOr<std::string> WatchWithoutMove() {
    FERRITE_RETURN_IF_ERROR(source_->Write("z"));
    absl::SleepFor(kQuiet);
    FERRITE_RETURN_IF_ERROR(source_->Write("w"));
    return source_->WaitForLine("event=waits", kTimeout);
  }

  absl::StatusOr<Json> Move() {
    FERRITE_ASSIGN_OR_RETURN(const auto move,
                             MonitorProcess::Start({Program(), "move", "--run-dir", Side("here"), "bench", address_,
                                                    "--mode", case_.mode, "--json"}));
    FERRITE_ASSIGN_OR_RETURN(const std::string line, move->WaitForLine("\"over\":true", kTimeout));
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.value("ok", false)) {
      return absl::InternalError(absl::StrCat("the move failed: ", line));
    }
    if (inputs_.verbose) {
      std::printf("%s: %s\n", case_.Name().c_str(), json["report"].dump().c_str());
    }
    return json["report"];
  }

  void Note(const Json& report) {
    const double total = report["total_seconds"];
    const double bytes = report["bytes"];
    figures_.total_ms.Add(total * kMs);
    figures_.gib_per_second.Add(bytes / total / static_cast<double>(1 << 30));
    figures_.downtime_ms.Add(static_cast<double>(report["downtime_seconds"]) * kMs);
    figures_.faults.Add(report["faults"]);
    figures_.moved_bytes = bytes;
    for (const Json& waiting : report["waiting"]) {
      if (!waiting["vcpu"].is_null()) {
        figures_.fault_p50_us.Add(static_cast<double>(waiting["p50_seconds"]) * kUs);
        figures_.fault_p99_us.Add(static_cast<double>(waiting["p99_seconds"]) * kUs);
      }
    }
  }

  absl::Status CheckAndStop() {
    FERRITE_RETURN_IF_ERROR(destination_->Write("q"));
    FERRITE_ASSIGN_OR_RETURN(const std::string check, destination_->WaitForLine("event=check", kTimeout));
    if (Field(check, "errors") != 0 || Field(check, "pages") == 0) {
      return absl::DataLossError(absl::StrCat("the guest found errors in its memory: ", check));
    }
    return destination_->WaitForEnd().status();
  }

  absl::Status Command(std::vector<std::string> words, const char* side) {
    words.insert(words.begin(), Program());
    words.insert(words.begin() + 2, {"--run-dir", Side(side)});
    FERRITE_ASSIGN_OR_RETURN(const auto command, MonitorProcess::Start(words));
    return Annotate(command->WaitForEnd().status(), words[1]);
  }

  std::string Program() const { return DataPath("vmm/app/ferrite"); }
  std::string Side(const char* side) const { return absl::StrCat(directory_.path(), "/", side); }

  const Inputs& inputs_;
  const Case case_;
  Figures& figures_;
  const Directory directory_;
  std::string address_;
  std::unique_ptr<MonitorProcess> source_;
  std::unique_ptr<MonitorProcess> destination_;
};

void PrintGoal(const char* what, double value, const char* relation, double goal) {
  const bool most = relation[0] == '<';
  absl::PrintF("    %-58s %8.2f   goal %s %.2f   %s\n", what, value, relation, goal,
               (most ? value <= goal : value >= goal) ? "reached" : "MISSED");
}

void PrintCase(const Case& what, const Figures& figures, const MoveLimits& limits) {
  absl::PrintF("%s\n    total %s, %.2f GiB/s\n", what.Name(), figures.total_ms.Summary("ms"),
               figures.gib_per_second.Median());
  absl::PrintF("    processor time: source %.2f s, destination %.2f s%s\n", figures.source_cpu.Median(),
               figures.destination_cpu.Median(), what.paused ? "" : " (the guest's own in them)");
  if (!what.paused) {
    absl::PrintF("    longest hole the guest saw %s; without a move %s; downtime by the account %s\n",
                 figures.gap_ms.Summary("ms"), figures.quiet_gap_ms.Summary("ms"), figures.downtime_ms.Summary("ms"));
  }
  // How long the raw stream would have taken for as many bytes, as a part of what the move took.
  const auto of_raw = [&](const Samples& raw_ms) {
    return raw_ms.Median() * figures.moved_bytes / limits.stream_bytes / figures.total_ms.Median();
  };
  if (figures.faults.Quantile(1) > 0) {
    absl::PrintF("    %.0f faults; a page waited for, by the destination's account: p50 %s, p99 %s\n",
                 figures.faults.Median(), figures.fault_p50_us.Summary("us"), figures.fault_p99_us.Summary("us"));
    absl::PrintF("    writes that waited, as the guest saw it: p50 %s, p99 %s\n", figures.guest_p50_us.Summary("us"),
                 figures.guest_p99_us.Summary("us"));
  }
  if (absl::string_view(what.mode) == "precopy") {
    const Samples& beside = what.paused ? limits.fresh_ms : limits.fresh_beside_vcpu_ms;
    PrintGoal("of the raw stream into fresh memory", of_raw(limits.fresh_ms), ">=", 0.85);
    if (!what.paused) {
      PrintGoal("of the same beside a process that polls, as the vCPU does", of_raw(beside), ">=", 0.85);
    }
    PrintGoal("of the raw stream into memory that is mapped already", of_raw(limits.warm_ms), ">=", 0.85);
  } else {
    PrintGoal("time, in that of the raw stream into fresh memory", 1 / of_raw(limits.fresh_ms), "<=", 1.2);
    PrintGoal("in that of the same beside a process that polls", 1 / of_raw(limits.fresh_beside_vcpu_ms), "<=", 1.2);
    PrintGoal("in that of the raw stream into mapped memory", 1 / of_raw(limits.warm_ms), "<=", 1.2);
  }
  if (!what.paused) {
    PrintGoal("longest hole, ms", figures.gap_ms.Median(), "<=", 3);
  }
  if (figures.faults.Quantile(1) > 0) {
    const double bare = limits.fault_p50_us.Median();
    PrintGoal("wait p50 (account), in the bare handler's median", figures.fault_p50_us.Median() / bare, "<=", 1.3);
    PrintGoal("wait p99 (account), in the bare handler's median", figures.fault_p99_us.Median() / bare, "<=", 3);
    PrintGoal("wait p50 (guest), in the bare handler's median", figures.guest_p50_us.Median() / bare, "<=", 1.3);
    PrintGoal("wait p99 (guest), in the bare handler's median", figures.guest_p99_us.Median() / bare, "<=", 3);
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const SocketKind kind : {SocketKind::kTcp, SocketKind::kUnix}) {
    cases.push_back({.guest = "paused", .options = "idle=1", .mode = "precopy", .kind = kind, .paused = true});
    cases.push_back({.guest = "idle", .options = "idle=1", .mode = "precopy", .kind = kind});
    for (const char* mode : {"postcopy", "auto"}) {
      cases.push_back({.guest = "sequential", .options = "mode=sequential", .mode = mode, .kind = kind});
      cases.push_back({.guest = "random", .options = "mode=random", .mode = mode, .kind = kind});
    }
  }
  return cases;
}

absl::Status Measure(const Inputs& inputs) {
  std::vector<Case> cases;
  std::map<SocketKind, MoveLimits> limits;
  for (const Case& one : Cases()) {
    if (absl::StrContains(one.Name(), inputs.only)) {
      cases.push_back(one);
      (void)limits[one.kind];
    }
  }
  absl::PrintF(
      "inputs: %d rounds; guest of %d MiB on memfd, 1 vCPU, %d MiB filled with random words, of which %d MiB are "
      "written at full speed (page by page in order, or at random; idle and paused: not at all); 1 page channel; %s\n",
      inputs.rounds, inputs.memory, inputs.set, inputs.hot, WhereItRuns(Needs::kKvm));
  std::fflush(stdout);
  std::vector<Figures> figures(cases.size());
  {
    FERRITE_ASSIGN_OR_RETURN(const Mapping source, MakeIncompressible(inputs.set * kMiB));
    for (int round = 0; round < inputs.rounds; ++round) {
      for (auto& [kind, of_kind] : limits) {
        FERRITE_RETURN_IF_ERROR(of_kind.Add(kind, source.span()));
        for (size_t i = 0; i < cases.size(); ++i) {
          if (cases[i].kind == kind) {
            FERRITE_RETURN_IF_ERROR(Annotate(OneMove(inputs, cases[i], figures[i]).Run(), cases[i].Name()));
          }
        }
      }
    }
  }
  for (const auto& [kind, of_kind] : limits) {
    of_kind.Print(kind);
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    PrintCase(cases[i], figures[i], limits[cases[i].kind]);
  }
  return absl::OkStatus();
}

std::string TextArgument(int argc, char** argv, absl::string_view name) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, absl::StrCat(name, "="))) {
      return std::string(argument);
    }
  }
  return "";
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  if (const auto status = ferrite::CannotRunHere("move_bench")) {
    return *status;
  }
  const auto number = [&](const char* name, int otherwise) {
    return static_cast<uint64_t>(ferrite::IntegerArgument(argc, argv, name, otherwise));
  };
  const absl::Status status = ferrite::Measure({.rounds = static_cast<int>(number("rounds", 3)),
                                                .memory = number("memory", 1024),
                                                .set = number("set", 768),
                                                .hot = number("hot", 256),
                                                .only = ferrite::TextArgument(argc, argv, "only"),
                                                .verbose = number("verbose", 0) != 0});
  if (!status.ok()) {
    std::fprintf(stderr, "move_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}
