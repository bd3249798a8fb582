// The rows of move_bench's table: what moves, who moves it, and what is to be reached beside the best of QEMU's.
#ifndef FERRITE_BENCH_MOVE_ROWS_H_
#define FERRITE_BENCH_MOVE_ROWS_H_

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bench/guest_pair.h"
#include "bench/move_limits.h"
#include "bench/one_move.h"

namespace ferrite {

// Of the median of one figure of one of ferrite's contenders.
struct MoveGoal {
  enum class Kind {
    kOfQemu,   // at most this part of the least of QEMU's contenders' medians
    kAtMost,   // in the figure's own unit
    kAtLeast,  //
  };
  MoveWay way;
  std::string figure;
  Kind kind;
  double value;
};

// One contender's runs.
struct ContenderRuns {
  Contender contender;
  std::vector<nlohmann::json> runs;

  // Of the runs that have it: a gap without a hole of the machine may be in none.
  bool Has(const std::string& figure) const;
  double Median(const std::string& figure) const;
  nlohmann::json Medians() const;
};

struct MoveRow {
  GuestTask task;
  SocketKind socket;
  absl::Duration downtime_limit;
  std::vector<ContenderRuns> contenders;
  std::vector<MoveGoal> goals;
  // Beyond the table: only when it is asked for.
  bool more = false;

  std::string Name() const;  // "random-tcp"
};

// All of them, `more` too. The writers write to `hot_mib`, but for the light one. Without QEMU where `qemu` is false.
std::vector<MoveRow> MoveRows(uint64_t hot_mib, bool qemu);

// A goal and what came of it.
struct GoalResult {
  std::string row;
  std::string contender;
  std::string figure;
  double value = 0;
  std::string qemu;  // the best of QEMU's, for kOfQemu
  double of_qemu = 0;
  MoveGoal::Kind kind{};
  double goal = 0;
  bool reached = false;
};
// Those that can be told: without QEMU only the absolute ones.
std::vector<GoalResult> GoalResults(const MoveRow& row);

// On standard output.
void PrintRows(const std::vector<MoveRow>& rows);
void PrintBesideLimits(const std::vector<MoveRow>& rows, const std::map<SocketKind, MoveLimits>& limits);
void PrintGoals(const std::vector<GoalResult>& goals);
nlohmann::json RowJson(const MoveRow& row);
nlohmann::json GoalsJson(const std::vector<GoalResult>& goals);

}  // namespace ferrite

#endif  // FERRITE_BENCH_MOVE_ROWS_H_
