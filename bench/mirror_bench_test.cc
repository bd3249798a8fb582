// mirror_bench works: each contender that is installed copies a small disk, idle and while a guest writes, and every
// figure is there. No time is asserted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "bench/monitor_process.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Minutes(4);
constexpr double kDataMib = 16;

// With little of everything.
absl::StatusOr<Json> RunBench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {DataPath("bench/mirror_bench"), "runs=1", "size=64", "rate=200", "before-ms=50",
                                       absl::StrCat("directory=", testing::TempDir()), "--json"});
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

std::set<std::string> Names(const Json& row) {
  std::set<std::string> names;
  for (const Json& contender : row["contenders"]) {
    names.insert(contender["name"]);
  }
  return names;
}

void ExpectAboveZero(const Json& run, const std::vector<const char*>& figures) {
  for (const char* figure : figures) {
    EXPECT_GT(run.value(figure, 0.0), 0.0) << figure;
  }
}

void ExpectFigures(const Json& rows) {
  for (const Json& row : rows) {
    for (const Json& contender : row["contenders"]) {
      const std::string name = contender["name"];
      SCOPED_TRACE(row["name"].get<std::string>() + ", " + name);
      ASSERT_EQ(contender["runs"].size(), 1u);
      const Json& run = contender["runs"][0];
      ExpectAboveZero(run, {"total_ms", "cpu_s"});
      EXPECT_GE(run.value("target_mib", 0.0), kDataMib);
      if (absl::StrContains(name, "mirror")) {
        ExpectAboveZero(run, {"ready_ms", "copied_mib"});
        EXPECT_LE(run["ready_ms"], run["total_ms"]);
      }
      if (row["name"] != "idle") {
        ExpectAboveZero(run, {"before_p50_us", "before_p99_us", "during_p50_us", "during_p99_us", "during_longest_us",
                              "writes_before", "writes_during"});
      }
    }
  }
}

TEST(MirrorBenchTest, EveryFigureIsThere) {
  const auto result = RunBench({});
  ASSERT_TRUE(result.ok()) << result.status();
  const Json& json = *result;
  ASSERT_EQ(json["rows"].size(), 3u);
  ExpectFigures(json["rows"]);
  const Json& idle = json["rows"][0];
  EXPECT_THAT(Names(idle), testing::IsSupersetOf({"ferrite mirror", "bare copy loop"}));
  EXPECT_THAT(json["inputs"]["where"].get<std::string>(), HasSubstr("KVM"));
  // Zeroes that were written, and holes, take nothing of the copy.
  EXPECT_LT(idle["contenders"][0]["runs"][0]["target_mib"], kDataMib + 1);
  EXPECT_FALSE(json["goals"].empty());
  if (access("/usr/bin/qemu-system-x86_64", X_OK) == 0) {
    EXPECT_THAT(Names(json["rows"][2]),
                testing::IsSupersetOf({"QEMU mirror write-blocking cache=writeback aio=io_uring without iothread"}));
    EXPECT_EQ(json["goals"].size(), 6u);
  }
}

TEST(MirrorBenchTest, SaysWhatIsNotThere) {
  const auto result =
      RunBench({"row=idle", "qemu=/nowhere/qemu", "qemu-img=/nowhere/qemu-img", "qemu-storage=/nowhere/daemon"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Names((*result)["rows"][0]), (std::set<std::string>{"ferrite mirror", "bare copy loop"}));
  const std::string peers = (*result)["inputs"]["peers"];
  EXPECT_THAT(peers, HasSubstr("apt install qemu-system-x86"));
  EXPECT_THAT(peers, HasSubstr("apt install qemu-utils"));
}

TEST(MirrorBenchTest, MeasuresTheJobAloneWithoutKvm) {
  const auto result = RunBench({"--no-kvm"});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ((*result)["rows"].size(), 1u);
  ExpectFigures((*result)["rows"]);
  EXPECT_THAT((*result)["inputs"]["peers"].get<std::string>(), HasSubstr("without KVM"));
}

TEST(MirrorBenchTest, RefusesARowThatIsNotThere) { EXPECT_FALSE(RunBench({"row=nothing"}).ok()); }

}  // namespace
}  // namespace ferrite
