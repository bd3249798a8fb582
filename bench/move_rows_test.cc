#include "bench/move_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace ferrite {
namespace {

using Json = nlohmann::json;

MoveRow Row() {
  return {.task = {.name = "made-up"},
          .socket = SocketKind::kTcp,
          .downtime_limit = absl::Milliseconds(1),
          .contenders = {{.contender = {.way = MoveWay::kAuto}, .runs = {}},
                         {.contender = {.qemu = true, .way = MoveWay::kPostcopy}, .runs = {}},
                         {.contender = {.qemu = true, .way = MoveWay::kPostcopy, .preempt = true}, .runs = {}}},
          .goals = {}};
}

TEST(ContenderRunsTest, TakesTheMedianOfTheRunsThatHaveAFigure) {
  const ContenderRuns runs = {.contender = {},
                              .runs = {{{"gap_ms", 9}, {"clean_gap_ms", 9}},
                                       {{"gap_ms", 70}, {"report", Json::object()}},
                                       {{"gap_ms", 5}, {"clean_gap_ms", 5}},
                                       {{"gap_ms", 80}, {"clean_gap_ms", 7}}}};
  EXPECT_DOUBLE_EQ(runs.Median("clean_gap_ms"), 7);
  EXPECT_TRUE(runs.Has("clean_gap_ms"));
  EXPECT_FALSE(runs.Has("report"));
  EXPECT_EQ(runs.Medians().size(), 2u);
}

TEST(GoalResultsTest, ComparesWithTheBestOfQemu) {
  MoveRow row = Row();
  row.goals = {{MoveWay::kAuto, "total_ms", MoveGoal::Kind::kOfQemu, 0.6},
               {MoveWay::kAuto, "clean_gap_ms", MoveGoal::Kind::kOfQemu, 0.5}};
  row.contenders[0].runs = {{{"total_ms", 300}, {"clean_gap_ms", 4}}};
  row.contenders[1].runs = {{{"total_ms", 400}, {"clean_gap_ms", 6}}};
  row.contenders[2].runs = {{{"total_ms", 600}, {"clean_gap_ms", 10}}};
  std::vector<GoalResult> results = GoalResults(row);
  ASSERT_EQ(results.size(), 2u);
  EXPECT_DOUBLE_EQ(results[0].of_qemu, 0.75);
  EXPECT_EQ(results[0].qemu, "QEMU postcopy");
  EXPECT_FALSE(results[0].reached);
  EXPECT_DOUBLE_EQ(results[1].value, 4);
  EXPECT_FALSE(results[1].reached);

  row.contenders[0].runs = {{{"total_ms", 240}, {"clean_gap_ms", 3}}};
  results = GoalResults(row);
  EXPECT_TRUE(results[0].reached && results[1].reached);
}

TEST(GoalResultsTest, ComparesTlsWithTls) {
  MoveRow row = Row();
  for (const bool tls : {false, true}) {
    row.contenders[1 + (tls ? 1 : 0)].contender.tls = tls;
  }
  row.contenders.push_back({.contender = {.way = MoveWay::kAuto, .tls = true}, .runs = {{{"total_ms", 500}}}});
  row.goals = {{MoveWay::kAuto, "total_ms", MoveGoal::Kind::kOfQemu, 0.6}};
  row.contenders[0].runs = {{{"total_ms", 300}}};
  row.contenders[1].runs = {{{"total_ms", 400}}};
  row.contenders[2].runs = {{{"total_ms", 1000}}};
  const std::vector<GoalResult> results = GoalResults(row);
  ASSERT_EQ(results.size(), 2u);
  EXPECT_DOUBLE_EQ(results[0].of_qemu, 0.75);
  EXPECT_EQ(results[0].contender, "ferrite auto");
  EXPECT_DOUBLE_EQ(results[1].of_qemu, 0.5);
  EXPECT_EQ(results[1].contender, "ferrite auto TLS");
}

TEST(GoalResultsTest, WithoutQemuTellsTheAbsoluteOnesOnly) {
  MoveRow row = Row();
  row.contenders.resize(1);
  row.goals = {{MoveWay::kAuto, "total_ms", MoveGoal::Kind::kOfQemu, 0.6},
               {MoveWay::kAuto, "clean_gap_ms", MoveGoal::Kind::kAtMost, 3},
               {MoveWay::kAuto, "huge_part", MoveGoal::Kind::kAtLeast, 0.95},
               {MoveWay::kAuto, "speed_part", MoveGoal::Kind::kAtLeast, 0.95},
               {MoveWay::kPostcopy, "clean_gap_ms", MoveGoal::Kind::kAtMost, 3}};
  // There were no huge pages before the move.
  row.contenders[0].runs = {{{"total_ms", 300}, {"clean_gap_ms", 3}, {"speed_part", 0.94}}};
  const std::vector<GoalResult> results = GoalResults(row);
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].figure, "clean_gap_ms");
  EXPECT_TRUE(results[0].reached);
  EXPECT_EQ(results[1].figure, "speed_part");
  EXPECT_FALSE(results[1].reached);
}

TEST(MoveRowsTest, EveryGoalIsOfAContenderAndEveryQemuMayBeLeftOut) {
  const auto has = [](const MoveRow& row, MoveWay way) {
    return std::any_of(row.contenders.begin(), row.contenders.end(),
                       [&](const ContenderRuns& runs) { return !runs.contender.qemu && runs.contender.way == way; });
  };
  for (const MoveRow& row : MoveRows(256, /*qemu=*/true)) {
    for (const MoveGoal& goal : row.goals) {
      EXPECT_TRUE(has(row, goal.way)) << row.Name() << " " << goal.figure;
    }
    EXPECT_TRUE(row.contenders.back().contender.qemu) << row.Name();
  }
  for (const MoveRow& row : MoveRows(256, /*qemu=*/false)) {
    for (const ContenderRuns& runs : row.contenders) {
      EXPECT_FALSE(runs.contender.qemu) << row.Name();
    }
  }
}

}  // namespace
}  // namespace ferrite
