// move_bench works: a guest moves in each way, by ferrite and, where it is installed, by QEMU, finds all of its memory,
// and every figure is there. No time is asserted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bench/monitor_process.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kTimeout = absl::Minutes(4);
constexpr char kQemu[] = "/usr/bin/qemu-system-x86_64";
constexpr double kSetPages = 16 << 8;

// With little of everything.
absl::StatusOr<Json> RunBench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {DataPath("bench/move_bench"), "runs=1", "memory=64", "set=16", "hot=4",
                                       "quiet-ms=20", "settle-ms=20", "limits=0", "--json"});
  auto bench = MonitorProcess::Start(arguments);
  if (!bench.ok()) {
    return bench.status();
  }
  const auto text = (*bench)->ReadToEnd(kTimeout);
  if (!text.ok()) {
    return text.status();
  }
  if (const auto end = (*bench)->WaitForEnd(); !end.ok()) {
    return absl::InternalError(end.status().ToString() + ": " + *text);
  }
  return Json::parse(*text, nullptr, /*allow_exceptions=*/false);
}

void ExpectFigures(const Json& run, std::vector<const char*> above_zero, std::vector<const char*> there) {
  for (const char* figure : above_zero) {
    EXPECT_GT(run.value(figure, 0.0), 0.0) << figure;
  }
  for (const char* figure : there) {
    EXPECT_TRUE(run.contains(figure) && run[figure].is_number()) << figure;
  }
}

std::set<std::string> Names(const Json& row) {
  std::set<std::string> names;
  for (const Json& contender : row["contenders"]) {
    names.insert(contender["name"]);
  }
  return names;
}

TEST(MoveBenchTest, EveryFigureOfAMoveIsThere) {
  const auto result = RunBench({"row=idle-tcp,random-unix,paused-tcp,tls-tcp,start"});
  ASSERT_TRUE(result.ok()) << result.status();
  const Json& json = *result;
  const bool qemu = access(kQemu, X_OK) == 0;
  EXPECT_EQ(json["inputs"]["memory_mib"], 64);
  EXPECT_THAT(json["inputs"]["where"].get<std::string>(), testing::HasSubstr("KVM"));
  EXPECT_EQ(json["inputs"]["qemu"].get<std::string>().empty(), !qemu);
  std::map<std::string, std::set<std::string>> contenders;
  for (const Json& row : json["rows"]) {
    const std::string name = row["name"];
    contenders[name] = Names(row);
    for (const Json& contender : row["contenders"]) {
      SCOPED_TRACE(name + ", " + contender["name"].get<std::string>());
      ASSERT_EQ(contender["runs"].size(), 1u);
      const Json& run = contender["runs"][0];
      EXPECT_EQ(run["wrong_pages"], 0);
      EXPECT_EQ(run["checked_pages"], kSetPages);
      EXPECT_GE(run["bytes"], 16 << 20);
      ExpectFigures(
          run, {"total_ms", "account_total_ms", "sent_part", "first_write_ms", "source_cpu_s", "destination_cpu_s"},
          {"downtime_ms", "faults", "huge_before_mib", "huge_after_mib", "watch_real_time"});
      EXPECT_TRUE(run["report"].is_object());
      EXPECT_TRUE(contender["median"].contains("total_ms"));
      if (name == "paused-tcp") {
        continue;
      }
      ExpectFigures(run, {"gap_ms", "quiet_gap_ms"},
                    {"gap_in_holes_ms", "holes_ms", "clock_lost_ms", "huge_settled_mib"});
      EXPECT_EQ(run.contains("clean_gap_ms"), run["gap_in_holes_ms"] == 0);
      if (name == "random-unix") {
        ExpectFigures(run, {"speed_before", "speed_after", "speed_part"},
                      {"waits", "wait_p50_us", "wait_p99_us", "wait_sum_ms"});
      }
    }
  }
  using testing::IsSupersetOf;
  EXPECT_THAT(contenders["idle-tcp"], IsSupersetOf({"ferrite precopy"}));
  EXPECT_THAT(contenders["paused-tcp"], IsSupersetOf({"ferrite precopy"}));
  EXPECT_THAT(contenders["tls-tcp"], IsSupersetOf({"ferrite precopy 2 channels", "ferrite precopy 2 channels TLS"}));
  EXPECT_THAT(contenders["random-unix"], IsSupersetOf({"ferrite auto", "ferrite postcopy"}));
  ExpectFigures(json["start"]["ferrite"]["runs"][0], {"start_ms", "first_entry_ms", "own_mib", "own_changed_mib"}, {});
  EXPECT_FALSE(json["goals"].empty());
  if (qemu) {
    EXPECT_THAT(contenders["idle-tcp"], IsSupersetOf({"QEMU precopy", "QEMU precopy multifd"}));
    EXPECT_THAT(contenders["tls-tcp"], IsSupersetOf({"QEMU precopy multifd", "QEMU precopy multifd TLS"}));
    EXPECT_THAT(contenders["random-unix"],
                IsSupersetOf({"QEMU postcopy", "QEMU postcopy preempt", "QEMU one round, postcopy",
                              "QEMU one round, postcopy preempt"}));
    ExpectFigures(json["start"]["qemu"]["runs"][0], {"start_ms", "own_mib"}, {});
    EXPECT_TRUE(std::any_of(json["goals"].begin(), json["goals"].end(),
                            [](const Json& goal) { return goal.contains("of_qemu"); }));
  }
}

TEST(MoveBenchTest, MeasuresFerriteAloneWhereThereIsNoQemu) {
  const auto result = RunBench({"row=light-tcp,start", "qemu=/nowhere/qemu"});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ((*result)["rows"].size(), 1u);
  EXPECT_EQ(Names((*result)["rows"][0]), std::set<std::string>{"ferrite precopy"});
  EXPECT_FALSE((*result)["start"].contains("qemu"));
  EXPECT_FALSE((*result)["goals"].empty());
}

TEST(MoveBenchTest, RefusesARowThatIsNotThere) { EXPECT_FALSE(RunBench({"row=nothing"}).ok()); }

}  // namespace
}  // namespace ferrite
