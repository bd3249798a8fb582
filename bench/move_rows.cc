#include "bench/move_rows.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using Kind = MoveGoal::Kind;

constexpr absl::Duration kLimit = absl::Milliseconds(300);
constexpr absl::Duration kShortLimit = absl::Milliseconds(10);
// Nothing that writes at full speed converges to it: `auto` ends in post-copy.
constexpr absl::Duration kLeastLimit = absl::Milliseconds(1);
constexpr double kMiB = 1 << 20;

// The shapes that QEMU is tried in: the best of them counts, each figure by itself.
std::vector<Contender> QemuPrecopy() {
  return {{.qemu = true, .way = MoveWay::kPrecopy}, {.qemu = true, .way = MoveWay::kPrecopy, .multifd = true}};
}

std::vector<Contender> QemuPostcopy() {
  return {{.qemu = true, .way = MoveWay::kPostcopy},
          {.qemu = true, .way = MoveWay::kPostcopy, .preempt = true},
          {.qemu = true, .way = MoveWay::kPostcopyAfterOne},
          {.qemu = true, .way = MoveWay::kPostcopyAfterOne, .preempt = true}};
}

std::string Cell(const ContenderRuns& runs, const char* figure, int digits) {
  return runs.Has(figure) ? absl::StrFormat("%.*f", digits, runs.Median(figure)) : "-";
}

std::string Unit(const std::string& figure) {
  for (const char* unit : {"ms", "us", "s", "mib"}) {
    if (const std::string end = absl::StrCat("_", unit); figure.size() > end.size() && figure.ends_with(end)) {
      return absl::StrCat(" ", unit);
    }
  }
  return "";
}

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kOfQemu:
      return "of_qemu";
    case Kind::kAtMost:
      return "at_most";
    case Kind::kAtLeast:
      return "at_least";
  }
  return "";
}

// The best of QEMU's contenders, with TLS or without, by a figure of which less is better; null when none has it.
const ContenderRuns* BestOfQemu(const MoveRow& row, bool tls, const std::string& figure) {
  const ContenderRuns* best = nullptr;
  for (const ContenderRuns& runs : row.contenders) {
    if (runs.contender.qemu && runs.contender.tls == tls && runs.Has(figure) &&
        (best == nullptr || runs.Median(figure) < best->Median(figure))) {
      best = &runs;
    }
  }
  return best;
}

}  // namespace

bool ContenderRuns::Has(const std::string& figure) const {
  for (const Json& run : runs) {
    if (const auto at = run.find(figure); at != run.end() && at->is_number()) {
      return true;
    }
  }
  return false;
}

double ContenderRuns::Median(const std::string& figure) const {
  Samples samples;
  for (const Json& run : runs) {
    if (const auto at = run.find(figure); at != run.end() && at->is_number()) {
      samples.Add(*at);
    }
  }
  return samples.Median();
}

Json ContenderRuns::Medians() const {
  Json medians = Json::object();
  for (const Json& run : runs) {
    for (const auto& [name, value] : run.items()) {
      if (value.is_number()) {
        medians[name] = Median(name);
      }
    }
  }
  return medians;
}

std::string MoveRow::Name() const { return absl::StrCat(task.name, "-", SocketKindName(socket)); }

std::vector<MoveRow> MoveRows(uint64_t hot_mib, bool qemu) {
  const std::string hot = absl::StrCat("hot=", hot_mib, "M write=word ");
  const GuestTask idle = {.name = "idle", .options = "idle=1", .writes = false};
  const GuestTask paused = {.name = "paused", .options = "idle=1", .writes = false, .paused = true};
  const GuestTask sequential = {.name = "sequential", .options = absl::StrCat(hot, "mode=sequential")};
  const GuestTask light = {.name = "light", .options = "hot=16M write=word mode=sequential rate=180000"};
  const GuestTask random = {.name = "random", .options = absl::StrCat(hot, "mode=random"), .waits = true};
  const GuestTask sweeping = {.name = "sweeping", .options = absl::StrCat(hot, "mode=sequential"), .waits = true};

  std::vector<MoveRow> rows;
  const auto add = [&](const GuestTask& task, SocketKind socket, absl::Duration limit, std::vector<MoveWay> ways,
                       const std::vector<Contender>& peers, std::vector<MoveGoal> goals, bool more = false) {
    MoveRow row = {.task = task,
                   .socket = socket,
                   .downtime_limit = limit,
                   .contenders = {},
                   .goals = std::move(goals),
                   .more = more};
    for (const MoveWay way : ways) {
      row.contenders.push_back({.contender = {.way = way}, .runs = {}});
      if (!task.paused) {
        row.goals.push_back({way, "huge_part", Kind::kAtLeast, 0.95});
      }
      if (task.writes) {
        row.goals.push_back({way, "speed_part", Kind::kAtLeast, 0.95});
      }
    }
    for (const Contender& peer : peers) {
      if (qemu) {
        row.contenders.push_back({.contender = peer, .runs = {}});
      }
    }
    rows.push_back(std::move(row));
  };
  constexpr MoveWay kPrecopy = MoveWay::kPrecopy;
  constexpr MoveWay kPostcopy = MoveWay::kPostcopy;
  constexpr MoveWay kAuto = MoveWay::kAuto;
  add(idle, SocketKind::kTcp, kLimit, {kPrecopy}, QemuPrecopy(),
      {{kPrecopy, "total_ms", Kind::kOfQemu, 0.75}, {kPrecopy, "destination_cpu_s", Kind::kOfQemu, 0.75}});
  add(idle, SocketKind::kUnix, kLimit, {kPrecopy}, QemuPrecopy(), {{kPrecopy, "total_ms", Kind::kOfQemu, 0.7}});
  add(sequential, SocketKind::kTcp, kLimit, {kPrecopy}, QemuPrecopy(),
      {{kPrecopy, "total_ms", Kind::kOfQemu, 0.7}, {kPrecopy, "clean_gap_ms", Kind::kOfQemu, 0.5}});
  add(light, SocketKind::kTcp, kShortLimit, {kPrecopy}, QemuPrecopy(),
      {{kPrecopy, "total_ms", Kind::kOfQemu, 0.7},
       {kPrecopy, "clean_gap_ms", Kind::kOfQemu, 0.5},
       {kPrecopy, "clean_gap_ms", Kind::kAtMost, 3}});
  for (const SocketKind socket : {SocketKind::kTcp, SocketKind::kUnix}) {
    const bool tcp = socket == SocketKind::kTcp;
    std::vector<MoveGoal> goals = {{kAuto, "total_ms", Kind::kOfQemu, tcp ? 0.6 : 0.5},
                                   {kPostcopy, "total_ms", Kind::kOfQemu, 0.5},
                                   {kAuto, "sent_part", Kind::kAtMost, 1.15}};
    for (const MoveWay way : {kAuto, kPostcopy}) {
      goals.push_back({way, "clean_gap_ms", Kind::kOfQemu, 0.25});
      goals.push_back({way, "clean_gap_ms", Kind::kAtMost, 3});
      goals.push_back({way, "wait_p50_us", Kind::kOfQemu, tcp ? 0.4 : 0.5});
      goals.push_back({way, "wait_p99_us", Kind::kOfQemu, tcp ? 0.4 : 0.5});
      goals.push_back({way, "wait_sum_ms", Kind::kOfQemu, 0.5});
    }
    add(random, socket, kLeastLimit, {kAuto, kPostcopy}, QemuPostcopy(), std::move(goals));
  }
  for (const SocketKind socket : {SocketKind::kTcp, SocketKind::kUnix}) {
    add(paused, socket, kLimit, {kPrecopy}, QemuPrecopy(), {}, /*more=*/true);
    add(sweeping, socket, kLeastLimit, {kAuto, kPostcopy}, QemuPostcopy(), {}, /*more=*/true);
  }
  // What TLS costs, beside the same channels in plain.
  MoveRow tls = {.task = idle, .socket = SocketKind::kTcp, .downtime_limit = kLimit, .contenders = {}, .goals = {}};
  tls.task.name = "tls";
  tls.goals.push_back({kPrecopy, "total_ms", Kind::kOfQemu, 0.75});
  tls.more = true;
  for (const bool of_qemu : {false, true}) {
    for (const bool with : {false, true}) {
      if (qemu || !of_qemu) {
        tls.contenders.push_back(
            {.contender = {.qemu = of_qemu, .way = kPrecopy, .multifd = true, .tls = with}, .runs = {}});
      }
    }
  }
  rows.push_back(std::move(tls));
  return rows;
}

std::vector<GoalResult> GoalResults(const MoveRow& row) {
  std::vector<GoalResult> results;
  for (const MoveGoal& goal : row.goals) {
    for (const ContenderRuns& runs : row.contenders) {
      if (runs.contender.qemu || runs.contender.way != goal.way || !runs.Has(goal.figure)) {
        continue;
      }
      GoalResult result = {.row = row.Name(),
                           .contender = runs.contender.Name(),
                           .figure = goal.figure,
                           .value = runs.Median(goal.figure),
                           .kind = goal.kind,
                           .goal = goal.value};
      if (goal.kind == Kind::kOfQemu) {
        const ContenderRuns* const best = BestOfQemu(row, runs.contender.tls, goal.figure);
        if (best == nullptr || best->Median(goal.figure) <= 0) {
          continue;
        }
        result.qemu = best->contender.Name();
        result.of_qemu = result.value / best->Median(goal.figure);
        result.reached = result.of_qemu <= goal.value;
      } else {
        result.reached = goal.kind == Kind::kAtMost ? result.value <= goal.value : result.value >= goal.value;
      }
      results.push_back(std::move(result));
    }
  }
  return results;
}

void PrintRows(const std::vector<MoveRow>& rows) {
  constexpr char kHead[] = "%-46s %7s %6s %7s %6s %7s %8s %8s %7s %6s %16s %6s %7s %7s\n";
  absl::PrintF(kHead, "row, who, how", "total", "gap", "without", "any", "stands", "wait p50", "wait p99", "wait",
               "CPU", "huge MiB", "speed", "first", "sent");
  absl::PrintF(kHead, "", "ms", "ms", "a hole", "gap", "still", "us", "us", "sum ms", "dst s", "before, after", "x",
               "ms", "MiB");
  for (const MoveRow& row : rows) {
    for (const ContenderRuns& runs : row.contenders) {
      if (runs.runs.empty()) {
        continue;
      }
      size_t clean = 0;
      for (const Json& run : runs.runs) {
        clean += run.contains("clean_gap_ms") ? 1 : 0;
      }
      absl::PrintF(kHead, absl::StrCat(row.Name(), ", ", runs.contender.Name()), Cell(runs, "total_ms", 0),
                   Cell(runs, "clean_gap_ms", 1), absl::StrFormat("%d/%d", clean, runs.runs.size()),
                   Cell(runs, "gap_ms", 1), Cell(runs, "downtime_ms", 2), Cell(runs, "wait_p50_us", 0),
                   Cell(runs, "wait_p99_us", 0), Cell(runs, "wait_sum_ms", 0), Cell(runs, "destination_cpu_s", 2),
                   absl::StrCat(Cell(runs, "huge_before_mib", 0), ", ", Cell(runs, "huge_after_mib", 0), ", ",
                                Cell(runs, "huge_settled_mib", 0)),
                   Cell(runs, "speed_part", 2), Cell(runs, "first_write_ms", 0),
                   absl::StrFormat("%.0f", runs.Median("bytes") / kMiB));
    }
  }
  absl::PrintF(
      "total: ferrite's whole command, QEMU's own account; gap: the longest that the guest saw, in the runs without a "
      "hole of the machine in it, in how many that was, and in all; stands still: by the account; waits: writes of 15 "
      "us "
      "and more; CPU: without the vCPU's; huge: before, at the end, and half way through the time in which the guest "
      "settles; speed: after, in that before; first: the guest writes its set for the first time\n");
  bool real_time = true;
  for (const MoveRow& row : rows) {
    for (const ContenderRuns& runs : row.contenders) {
      real_time = real_time && (!runs.Has("watch_real_time") || runs.Median("watch_real_time") > 0);
      if (const double lost = runs.Median("clock_lost_ms"); lost > 0) {
        absl::PrintF("%s, %s: the guest's clock stood still for %.0f ms, which its gap lacks\n", row.Name(),
                     runs.contender.Name(), lost);
      }
    }
  }
  if (!real_time) {
    absl::PrintF("holes were watched for without real-time priority: some may be the turn of another thread\n");
  }
}

void PrintBesideLimits(const std::vector<MoveRow>& rows, const std::map<SocketKind, MoveLimits>& limits) {
  absl::PrintF(
      "ferrite beside the limits: the raw stream's time for as many bytes, in that of the move; a page waited "
      "for (by the account, as the guest saw it), in a bare handler's median\n");
  constexpr char kHead[] = "%-46s %7s %7s %7s %9s %9s %9s %9s\n";
  absl::PrintF(kHead, "row, how", "fresh", "polled", "mapped", "p50, acc.", "p99, acc.", "p50", "p99");
  for (const MoveRow& row : rows) {
    const auto found = limits.find(row.socket);
    for (const ContenderRuns& runs : row.contenders) {
      if (found == limits.end() || found->second.fault_p50_us.count() == 0 || runs.contender.qemu ||
          runs.runs.empty()) {
        continue;
      }
      const MoveLimits& limit = found->second;
      const auto of_raw = [&](const Samples& raw_ms) {
        return absl::StrFormat(
            "%.2f", raw_ms.Median() * runs.Median("bytes") / limit.stream_bytes / runs.Median("account_total_ms"));
      };
      const auto of_bare = [&](const char* figure) {
        return runs.Median(figure) > 0 ? absl::StrFormat("%.2f", runs.Median(figure) / limit.fault_p50_us.Median())
                                       : std::string("-");
      };
      absl::PrintF(kHead, absl::StrCat(row.Name(), ", ", runs.contender.Name()), of_raw(limit.fresh_ms),
                   of_raw(limit.fresh_beside_vcpu_ms), of_raw(limit.warm_ms), of_bare("account_wait_p50_us"),
                   of_bare("account_wait_p99_us"), of_bare("wait_p50_us"), of_bare("wait_p99_us"));
    }
  }
}

void PrintGoals(const std::vector<GoalResult>& goals) {
  for (const GoalResult& goal : goals) {
    const std::string what = absl::StrCat(goal.row, ", ", goal.contender, ": ", goal.figure);
    const char* const verdict = goal.reached ? "reached" : "MISSED";
    if (goal.kind == Kind::kOfQemu) {
      absl::PrintF("%-52s %5.2f of the best of QEMU's (%s)   goal %.2f   %s\n", what, goal.of_qemu, goal.qemu,
                   goal.goal, verdict);
    } else {
      absl::PrintF("%-52s %5.2f%s   goal %s %.2f   %s\n", what, goal.value, Unit(goal.figure),
                   goal.kind == Kind::kAtMost ? "<=" : ">=", goal.goal, verdict);
    }
  }
}

Json RowJson(const MoveRow& row) {
  Json json = {{"name", row.Name()},
               {"guest", row.task.options},
               {"downtime_limit_ms", absl::ToDoubleMilliseconds(row.downtime_limit)},
               {"contenders", Json::array()}};
  for (const ContenderRuns& runs : row.contenders) {
    json["contenders"].push_back({{"name", runs.contender.Name()}, {"median", runs.Medians()}, {"runs", runs.runs}});
  }
  return json;
}

Json GoalsJson(const std::vector<GoalResult>& goals) {
  Json json = Json::array();
  for (const GoalResult& goal : goals) {
    json.push_back({{"row", goal.row},
                    {"contender", goal.contender},
                    {"figure", goal.figure},
                    {"value", goal.value},
                    {"kind", KindName(goal.kind)},
                    {"goal", goal.goal},
                    {"reached", goal.reached}});
    if (goal.kind == Kind::kOfQemu) {
      json.back()["qemu"] = goal.qemu;
      json.back()["of_qemu"] = goal.of_qemu;
    }
  }
  return json;
}

}  // namespace ferrite
