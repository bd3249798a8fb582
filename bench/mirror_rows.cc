#include "bench/mirror_rows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using Who = MirrorContender::Who;
using Peer = MirrorGoal::Peer;

std::string Cell(const CopyRuns& runs, const char* figure, int digits) {
  return runs.Has(figure) ? absl::StrFormat("%.*f", digits, runs.Median(figure)) : "-";
}

// Of each pair of turns.
PairRatio Ratio(const CopyRuns& ours, const CopyRuns& theirs, const std::string& figure) {
  PairRatio ratio;
  for (size_t i = 0; i < std::min(ours.runs.size(), theirs.runs.size()); ++i) {
    ratio.Add(ours.runs[i].value(figure, 0.0), theirs.runs[i].value(figure, 0.0));
  }
  return ratio;
}

const CopyRuns* FindPeer(const MirrorRow& row, Peer peer, const std::string& figure) {
  const CopyRuns* best = nullptr;
  for (const CopyRuns& runs : row.contenders) {
    const Who wanted = peer == Peer::kLimit ? Who::kBareCopying : Who::kQemu;
    if (runs.contender.who == wanted && runs.Has(figure) &&
        (best == nullptr || runs.Median(figure) < best->Median(figure))) {
      best = &runs;
    }
  }
  return best;
}

// The shapes that QEMU is tried in: the best of them counts, each figure by itself.
std::vector<MirrorContender> QemuShapes(bool is_loaded) {
  std::vector<MirrorContender> shapes;
  for (const bool direct : {false, true}) {
    for (const char* aio : {"threads", "native", "io_uring"}) {
      // QEMU's native needs O_DIRECT. A loaded row takes long: its threads are the slower ones there.
      if ((std::string(aio) == "native" && !direct) || (std::string(aio) == "threads" && direct)) {
        continue;
      }
      if (!is_loaded || std::string(aio) == "io_uring") {
        shapes.push_back({.who = Who::kQemu, .aio = aio, .direct = direct});
      }
    }
  }
  if (is_loaded) {
    shapes.push_back({.who = Who::kQemu, .aio = "threads"});
  } else {
    shapes.push_back({.who = Who::kQemu, .aio = "io_uring", .detect_zeroes = false});
  }
  return shapes;
}

void PrintHead(bool is_loaded) {
  absl::PrintF("%-64s %7s %7s %6s %8s %8s", "row, who, how", "total", "ready", "CPU", "copied", "target");
  if (is_loaded) {
    absl::PrintF("  %-23s %-23s %-19s %-13s", "before: p50, p99, late", "during: p50, p99, late", "longest bef., dur.",
                 "writes/s");
  }
  absl::PrintF("\n%-64s %7s %7s %6s %8s %8s", "", "ms", "ms", "s", "MiB", "MiB");
  if (is_loaded) {
    absl::PrintF("  %-23s %-23s %-19s %-13s", "us", "us", "us", "bef., during");
  }
  absl::PrintF("\n");
}

std::string Cells(const CopyRuns& runs, const std::vector<std::string>& figures) {
  std::string text;
  for (const std::string& figure : figures) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", Cell(runs, figure.c_str(), 0));
  }
  return text;
}

}  // namespace

bool CopyRuns::Has(const std::string& figure) const {
  return std::any_of(runs.begin(), runs.end(), [&](const Json& run) {
    const auto at = run.find(figure);
    return at != run.end() && at->is_number();
  });
}

double CopyRuns::Median(const std::string& figure) const {
  Samples samples;
  for (const Json& run : runs) {
    if (const auto at = run.find(figure); at != run.end() && at->is_number()) {
      samples.Add(*at);
    }
  }
  return samples.Median();
}

std::vector<MirrorRow> MirrorRows(const MirrorPeers& peers) {
  std::vector<MirrorRow> rows;
  const auto add = [](MirrorRow& row, std::vector<MirrorContender> contenders) {
    for (MirrorContender& contender : contenders) {
      row.contenders.push_back({.contender = std::move(contender), .runs = {}});
    }
  };
  MirrorRow idle = {.name = "idle",
                    .contenders = {},
                    .goals = {{"total_ms", Peer::kBestOfQemu, 0.8}, {"total_ms", Peer::kLimit, 1.25}}};
  add(idle, {{.who = Who::kFerrite}, {.who = Who::kBareCopying}});
  if (peers.qemu) {
    add(idle, QemuShapes(/*is_loaded=*/false));
  }
  if (peers.qemu_img) {
    add(idle, {{.who = Who::kQemuImg, .detect_zeroes = false}, {.who = Who::kQemuImg}});
  }
  rows.push_back(std::move(idle));
  for (const bool write_blocking : {false, true}) {
    if (!peers.kvm) {
      break;
    }
    MirrorRow row = {.name = write_blocking ? "write-blocking" : "background",
                     .is_loaded = true,
                     .contenders = {},
                     .goals = {{"total_ms", Peer::kBestOfQemu, 0.8}, {"during_p99_us", Peer::kBestOfQemu, 0.5}}};
    add(row, {{.who = Who::kFerrite, .write_blocking = write_blocking}});
    if (peers.qemu) {
      std::vector<MirrorContender> shapes = QemuShapes(/*is_loaded=*/true);
      for (MirrorContender& shape : shapes) {
        shape.write_blocking = write_blocking;
        // With one QEMU 7.2 dies of a signal in one of three such mirrors.
        shape.iothread = !write_blocking;
      }
      add(row, std::move(shapes));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<MirrorGoalResult> MirrorGoalResults(const MirrorRow& row) {
  std::vector<MirrorGoalResult> results;
  for (const MirrorGoal& goal : row.goals) {
    const CopyRuns* const peer = FindPeer(row, goal.peer, goal.figure);
    if (peer == nullptr || row.contenders[0].runs.empty()) {
      continue;
    }
    results.push_back({.row = row.name,
                       .goal = goal,
                       .peer = peer->contender.Name(),
                       .ratio = Ratio(row.contenders[0], *peer, goal.figure)});
  }
  return results;
}

void PrintMirrorRows(const std::vector<MirrorRow>& rows) {
  bool has_loaded = false;
  for (const MirrorRow& row : rows) {
    PrintHead(row.is_loaded);
    has_loaded = has_loaded || row.is_loaded;
    for (const CopyRuns& runs : row.contenders) {
      if (runs.runs.empty()) {
        continue;
      }
      absl::PrintF("%-64s %7s %7s %6s %8s %8s", absl::StrCat(row.name, ", ", runs.contender.Name()),
                   Cell(runs, "total_ms", 0), Cell(runs, "ready_ms", 0), Cell(runs, "cpu_s", 2),
                   Cell(runs, "copied_mib", 0), Cell(runs, "target_mib", 0));
      if (row.is_loaded) {
        absl::PrintF("  %-23s %-23s %-19s %-13s", Cells(runs, {"before_p50_us", "before_p99_us", "before_late_p99_us"}),
                     Cells(runs, {"during_p50_us", "during_p99_us", "during_late_p99_us"}),
                     Cells(runs, {"before_longest_us", "during_longest_us"}),
                     Cells(runs, {"writes_before", "writes_during"}));
      }
      absl::PrintF("\n");
    }
    const CopyRuns& ours = row.contenders[0];
    for (const CopyRuns& runs : row.contenders) {
      if (&runs != &ours && !runs.runs.empty() && !ours.runs.empty()) {
        absl::PrintF("  total, ferrite's in that of %s: %s; CPU %s%s\n", runs.contender.Name(),
                     Ratio(ours, runs, "total_ms").Text(), Ratio(ours, runs, "cpu_s").Text(),
                     row.is_loaded ? absl::StrCat("; p99 during ", Ratio(ours, runs, "during_p99_us").Text(), ", late ",
                                                  Ratio(ours, runs, "during_late_p99_us").Text())
                                   : std::string());
      }
    }
  }
  absl::PrintF(
      "total: until the copy is on the disk, and the machine goes on with it; CPU: without the vCPU's; copied: by the "
      "monitor's own account; target: what it takes of its file system at the end\n");
  if (has_loaded) {
    absl::PrintF(
        "before, during: of the guest's writes, before the mirror and from its start to its end, the switch to the "
        "copy included; late: the p99 from when a write was due, the others from when it was given to the device\n");
  }
}

void PrintMirrorGoals(const std::vector<MirrorGoalResult>& goals) {
  for (const MirrorGoalResult& result : goals) {
    absl::PrintF("%-28s %s of %s   goal %.2f   %s\n", absl::StrCat(result.row, ": ", result.goal.figure),
                 result.ratio.Text(), result.peer, result.goal.most, result.reached() ? "reached" : "MISSED");
  }
}

Json MirrorRowsJson(const std::vector<MirrorRow>& rows) {
  Json json = Json::array();
  for (const MirrorRow& row : rows) {
    Json contenders = Json::array();
    for (const CopyRuns& runs : row.contenders) {
      contenders.push_back({{"name", runs.contender.Name()}, {"runs", runs.runs}});
    }
    json.push_back({{"name", row.name}, {"contenders", std::move(contenders)}});
  }
  return json;
}

Json MirrorGoalsJson(const std::vector<MirrorGoalResult>& goals) {
  Json json = Json::array();
  for (const MirrorGoalResult& result : goals) {
    json.push_back({{"row", result.row},
                    {"figure", result.goal.figure},
                    {"peer", result.peer},
                    {"ratio", result.ratio.mean()},
                    {"goal", result.goal.most},
                    {"reached", result.reached()}});
    if (result.ratio.count() > 1) {
      json.back()["interval"] = {result.ratio.low(), result.ratio.high()};
    }
  }
  return json;
}

}  // namespace ferrite
