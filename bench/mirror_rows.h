// The rows of mirror_bench: who copies in each, what is wanted of ferrite, and how it is printed.
#ifndef FERRITE_BENCH_MIRROR_ROWS_H_
#define FERRITE_BENCH_MIRROR_ROWS_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/mirroring.h"
#include "bench/pair_ratio.h"

namespace ferrite {

// One contender's runs, in the order of the turns.
struct CopyRuns {
  MirrorContender contender;
  std::vector<nlohmann::json> runs;

  bool Has(const std::string& figure) const;
  // Of the runs that have it.
  double Median(const std::string& figure) const;
};

// Of ferrite's figure beside a peer's, at most.
struct MirrorGoal {
  enum class Peer {
    kBestOfQemu,  // its contender with the least median
    kLimit,       // the bare loop
  };
  std::string figure;
  Peer peer;
  double most;
};

struct MirrorRow {
  std::string name;  // "idle", "background", "write-blocking"
  bool is_loaded = false;
  std::vector<CopyRuns> contenders;  // ferrite's first
  std::vector<MirrorGoal> goals;
};

struct MirrorPeers {
  bool qemu = false;
  bool qemu_img = false;
  bool kvm = false;
};
// Without KVM only the idle one.
std::vector<MirrorRow> MirrorRows(const MirrorPeers& peers);

struct MirrorGoalResult {
  std::string row;
  MirrorGoal goal;
  std::string peer;
  PairRatio ratio;

  bool reached() const { return ratio.mean() <= goal.most; }
};
// Those whose peer was measured.
std::vector<MirrorGoalResult> MirrorGoalResults(const MirrorRow& row);

// On standard output.
void PrintMirrorRows(const std::vector<MirrorRow>& rows);
void PrintMirrorGoals(const std::vector<MirrorGoalResult>& goals);
nlohmann::json MirrorRowsJson(const std::vector<MirrorRow>& rows);
nlohmann::json MirrorGoalsJson(const std::vector<MirrorGoalResult>& goals);

}  // namespace ferrite

#endif  // FERRITE_BENCH_MIRROR_ROWS_H_
