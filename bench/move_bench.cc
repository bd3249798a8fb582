// Moves of a machine between two monitors, ferrite's beside QEMU's, with the same guest image and in turns; and what
// they are beside the limits of this host, measured in the same run. docs/performance.md says what each figure is.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/mapping.h"
#include "base/status.h"
#include "bench/arguments.h"
#include "bench/monitor_process.h"
#include "bench/move_limits.h"
#include "bench/move_rows.h"
#include "bench/one_move.h"
#include "bench/samples.h"
#include "bench/start_row.h"
#include "bench/where.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using Kind = MoveGoal::Kind;

constexpr char kStartRow[] = "start";
constexpr double kStartOfQemu = 0.45;
constexpr double kMostOwnMib = 2.4;
// As many times as a move: a start is short.
constexpr int kStartsInRound = 3;

struct Inputs {
  int runs = 5;
  std::vector<std::string> only;
  bool more = false;
  uint64_t memory_mib = 1024;
  uint64_t set_mib = 768;
  uint64_t hot_mib = 256;
  int quiet_ms = 500;
  int settle_ms = 2000;
  std::string qemu = "/usr/bin/qemu-system-x86_64";
  std::string run_arguments;
  std::string move_arguments;
  bool limits = true;
  bool json = false;
  std::string save;

  MoveInputs moves() const {
    return {.memory_mib = memory_mib,
            .set_mib = set_mib,
            .quiet = absl::Milliseconds(quiet_ms),
            .settle = absl::Milliseconds(settle_ms),
            .qemu = qemu,
            .run_arguments = absl::StrSplit(run_arguments, ' ', absl::SkipEmpty()),
            .move_arguments = absl::StrSplit(move_arguments, ' ', absl::SkipEmpty())};
  }
  bool Wants(const std::string& name, bool is_more) const {
    for (const std::string& text : only) {
      if (absl::StrContains(name, text)) {
        return true;
      }
    }
    return only.empty() && (more || !is_more);
  }
};

struct Results {
  std::vector<MoveRow> rows;
  std::optional<ContenderRuns> ferrite_start;
  std::optional<ContenderRuns> qemu_start;
  std::map<SocketKind, MoveLimits> limits;
  std::vector<GoalResult> goals;
};

// What QEMU says of itself; empty where it is not installed.
std::string QemuVersion(const std::string& qemu) {
  if (access(qemu.c_str(), X_OK) != 0) {
    return "";
  }
  const auto process = MonitorProcess::Start({qemu, "--version"});
  if (!process.ok()) {
    return "";
  }
  const auto line = (*process)->WaitForLine("version", absl::Seconds(30));
  return line.ok() ? *line : "";
}

void AddStartGoals(Results& results) {
  if (!results.ferrite_start.has_value() || results.ferrite_start->runs.empty()) {
    return;
  }
  const ContenderRuns& ferrite = *results.ferrite_start;
  if (results.qemu_start.has_value() && !results.qemu_start->runs.empty()) {
    const double of_qemu = ferrite.Median("start_ms") / results.qemu_start->Median("start_ms");
    results.goals.push_back({.row = kStartRow,
                             .contender = "ferrite",
                             .figure = "start_ms",
                             .value = ferrite.Median("start_ms"),
                             .qemu = "QEMU microvm",
                             .of_qemu = of_qemu,
                             .kind = Kind::kOfQemu,
                             .goal = kStartOfQemu,
                             .reached = of_qemu <= kStartOfQemu});
  }
  results.goals.push_back({.row = kStartRow,
                           .contender = "ferrite",
                           .figure = "own_mib",
                           .value = ferrite.Median("own_mib"),
                           .qemu = "",
                           .kind = Kind::kAtMost,
                           .goal = kMostOwnMib,
                           .reached = ferrite.Median("own_mib") <= kMostOwnMib});
}

void PrintStart(const char* who, const std::optional<ContenderRuns>& measured) {
  if (!measured.has_value() || measured->runs.empty()) {
    return;
  }
  const ContenderRuns& runs = *measured;
  absl::PrintF(
      "start, %s: to the guest's first line %.1f ms%s; memory of its own beside the guest's %.1f MiB, %.1f of it not "
      "as in its files\n",
      who, runs.Median("start_ms"),
      runs.Has("first_entry_ms") ? absl::StrFormat(" (entered at %.1f ms)", runs.Median("first_entry_ms"))
                                 : std::string(),
      runs.Median("own_mib"), runs.Median("own_changed_mib"));
}

Json InputsJson(const Inputs& inputs, const std::string& where, const std::string& qemu) {
  return {{"runs", inputs.runs},
          {"memory_mib", inputs.memory_mib},
          {"set_mib", inputs.set_mib},
          {"hot_mib", inputs.hot_mib},
          {"quiet_ms", inputs.quiet_ms},
          {"settle_ms", inputs.settle_ms},
          {"run_arguments", inputs.run_arguments},
          {"move_arguments", inputs.move_arguments},
          {"qemu", qemu},
          {"where", where}};
}

void PrintInputs(const Inputs& inputs, const std::string& where, const std::string& qemu) {
  absl::PrintF(
      "inputs: %d runs of each in turns; guest of %d MiB, 1 vCPU, that fills %d MiB with what does not compress; "
      "idle: it looks at its clock only; sequential, random: writes a word of a page of %d MiB, at full speed; light: "
      "of 16 MiB, 180,000 times a second; limit of the downtime: 300 ms, light 10, random 1; watched for %d ms before "
      "and, %d ms later, after; start: %d MiB, %d a run; ferrite run %s, move %s; %s; %s\n",
      inputs.runs, inputs.memory_mib, inputs.set_mib, inputs.hot_mib, inputs.quiet_ms, inputs.settle_ms,
      kStartMemoryMib, kStartsInRound, inputs.run_arguments.empty() ? "as it comes" : inputs.run_arguments,
      inputs.move_arguments.empty() ? "as it comes" : inputs.move_arguments,
      qemu.empty() ? absl::StrCat("no QEMU at ", inputs.qemu, ": ferrite alone") : qemu, where);
  std::fflush(stdout);
}

Json LimitsJson(const MoveLimits& limits) {
  return {{"stream_bytes", limits.stream_bytes},
          {"warm_ms", limits.warm_ms.Median()},
          {"fresh_ms", limits.fresh_ms.Median()},
          {"fresh_beside_poller_ms", limits.fresh_beside_vcpu_ms.Median()},
          {"bare_fault_p50_us", limits.fault_p50_us.Median()},
          {"bare_fault_p99_us", limits.fault_p99_us.Median()}};
}

Json ResultsJson(const Inputs& inputs, const std::string& where, const std::string& qemu, const Results& results) {
  Json out = {{"inputs", InputsJson(inputs, where, qemu)},
              {"limits", Json::object()},
              {"rows", Json::array()},
              {"start", Json::object()},
              {"goals", GoalsJson(results.goals)}};
  for (const auto& [kind, limits] : results.limits) {
    out["limits"][SocketKindName(kind)] = LimitsJson(limits);
  }
  for (const MoveRow& row : results.rows) {
    out["rows"].push_back(RowJson(row));
  }
  for (const auto& [name, runs] :
       {std::pair("ferrite", &results.ferrite_start), std::pair("qemu", &results.qemu_start)}) {
    if (runs->has_value()) {
      out["start"][name] = {{"median", (*runs)->Medians()}, {"runs", (*runs)->runs}};
    }
  }
  return out;
}

void Print(const Results& results) {
  for (const auto& [kind, limits] : results.limits) {
    if (limits.fault_p50_us.count() > 0) {
      limits.Print(kind);
    }
  }
  if (!results.rows.empty()) {
    PrintRows(results.rows);
    if (!results.limits.empty()) {
      PrintBesideLimits(results.rows, results.limits);
    }
  }
  PrintStart("ferrite", results.ferrite_start);
  PrintStart("QEMU microvm", results.qemu_start);
  PrintGoals(results.goals);
}

// Somebody who watches sees that it goes on.
void ShowProgress(const Inputs& inputs, int run, const std::string& what) {
  if (isatty(STDERR_FILENO) != 0) {
    absl::FPrintF(stderr, "run %d of %d: %s\n", run + 1, inputs.runs, what);
  }
}

absl::Status MeasureStarts(const MoveInputs& moves, Results& results) {
  for (int i = 0; i < kStartsInRound; ++i) {
    FERRITE_ASSIGN_OR_RETURN(Json ours, MeasureFerriteStart(moves.run_arguments));
    results.ferrite_start->runs.push_back(std::move(ours));
    if (results.qemu_start.has_value()) {
      FERRITE_ASSIGN_OR_RETURN(Json theirs, MeasureQemuStart(moves.qemu));
      results.qemu_start->runs.push_back(std::move(theirs));
    }
  }
  return absl::OkStatus();
}

absl::Status MeasureOnce(const Inputs& inputs, int run, Results& results) {
  const MoveInputs moves = inputs.moves();
  for (auto& [kind, limits] : results.limits) {
    ShowProgress(inputs, run, absl::StrCat("limits over ", SocketKindName(kind)));
    FERRITE_ASSIGN_OR_RETURN(const Mapping source, MakeIncompressible(inputs.set_mib << 20));
    FERRITE_RETURN_IF_ERROR(limits.Add(kind, source.span()));
  }
  for (MoveRow& row : results.rows) {
    for (ContenderRuns& runs : row.contenders) {
      const std::string name = absl::StrCat(row.Name(), ", ", runs.contender.Name());
      ShowProgress(inputs, run, name);
      auto figures = MeasureMove(moves, row.task, row.socket, row.downtime_limit, runs.contender);
      FERRITE_RETURN_IF_ERROR(Annotate(figures.status(), name));
      runs.runs.push_back(*std::move(figures));
    }
  }
  if (results.ferrite_start.has_value()) {
    ShowProgress(inputs, run, kStartRow);
    FERRITE_RETURN_IF_ERROR(Annotate(MeasureStarts(moves, results), kStartRow));
  }
  return absl::OkStatus();
}

absl::Status Measure(const Inputs& inputs) {
  if (inputs.hot_mib > inputs.set_mib || inputs.set_mib > inputs.memory_mib) {
    return absl::InvalidArgumentError("what is written is part of the set, and that of the memory");
  }
  const std::string where = WhereItRuns(Needs::kKvm);
  const std::string qemu = QemuVersion(inputs.qemu);
  Results results;
  for (MoveRow& row : MoveRows(inputs.hot_mib, !qemu.empty())) {
    if (inputs.Wants(row.Name(), row.more)) {
      if (inputs.limits) {
        (void)results.limits[row.socket];
      }
      results.rows.push_back(std::move(row));
    }
  }
  if (inputs.Wants(kStartRow, false)) {
    results.ferrite_start.emplace();
    if (!qemu.empty()) {
      results.qemu_start.emplace();
    }
  } else if (results.rows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("no row's name has one of: ", absl::StrJoin(inputs.only, ", ")));
  }
  if (!inputs.json) {
    PrintInputs(inputs, where, qemu);
  }
  // What was measured is shown, also when a later run fails.
  absl::Status failed;
  for (int run = 0; run < inputs.runs && failed.ok(); ++run) {
    failed = MeasureOnce(inputs, run, results);
  }
  for (const MoveRow& row : results.rows) {
    const std::vector<GoalResult> goals = GoalResults(row);
    results.goals.insert(results.goals.end(), goals.begin(), goals.end());
  }
  AddStartGoals(results);
  const std::string json = ResultsJson(inputs, where, qemu, results).dump();
  if (inputs.json) {
    if (failed.ok()) {
      std::printf("%s\n", json.c_str());
    }
  } else {
    Print(results);
  }
  if (!inputs.save.empty() && !(std::ofstream(inputs.save) << json << std::endl)) {
    return ErrnoStatus(absl::StrCat("write ", inputs.save));
  }
  return failed;
}

int Main(int argc, char** argv) {
  std::vector<std::string> arguments = ArgumentsOf(argc, argv);
  Inputs inputs;
  CLI::App app("Moves of a machine between two monitors: ferrite's beside QEMU's, and beside this host's limits");
  app.add_option("--runs", inputs.runs, "Of each")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--row", inputs.only, "Only rows whose names hold one of these, as random-tcp or start")
      ->delimiter(',');
  app.add_flag("--more", inputs.more, "Rows beyond the table: a guest that is paused, a sequential one in post-copy");
  app.add_option("--memory", inputs.memory_mib, "MiB of the guest")->check(CLI::Range(64, 3072))->capture_default_str();
  app.add_option("--set", inputs.set_mib, "MiB that it fills")->check(CLI::Range(16, 3072))->capture_default_str();
  app.add_option("--hot", inputs.hot_mib, "MiB that its writers write to")
      ->check(CLI::Range(1, 3072))
      ->capture_default_str();
  app.add_option("--quiet-ms", inputs.quiet_ms, "How long it is watched before a move, and after it")
      ->check(CLI::Range(10, 100000))
      ->capture_default_str();
  app.add_option("--settle-ms", inputs.settle_ms, "From a move to the watch after it")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  app.add_option("--qemu", inputs.qemu, "QEMU's program; where there is none, ferrite is measured alone")
      ->capture_default_str();
  app.add_option("--run-options", inputs.run_arguments, "More arguments of `ferrite run`");
  app.add_option("--move-options", inputs.move_arguments, "More arguments of `ferrite move`");
  app.add_option("--limits", inputs.limits, "0: without the limits")->capture_default_str();
  app.add_flag("--json", inputs.json, "One JSON object with every run, and no table");
  app.add_option("--save", inputs.save, "A file for that object, beside the table")->type_name("FILE");
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  if (const auto status = CannotRunHere("move_bench")) {
    return *status;
  }
  const absl::Status status = Measure(inputs);
  if (!status.ok()) {
    if (inputs.json) {
      std::printf("%s\n", Json({{"error", status.ToString()}}).dump().c_str());
    }
    std::fprintf(stderr, "move_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) { return ferrite::Main(argc, argv); }
