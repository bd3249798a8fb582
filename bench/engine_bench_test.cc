// engine_bench works: every case moves, its guest finds all of its memory, and every figure is there. No time is
// asserted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "bench/engine_guest.h"
#include "bench/engine_ports.h"
#include "bench/engine_sides.h"
#include "bench/monitor_process.h"
#include "bench/samples.h"
#include "memory/guest_memory.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMiB = 1 << 20;
constexpr absl::Duration kTimeout = absl::Minutes(4);

absl::StatusOr<Json> RunBench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), DataPath("bench/engine_bench"));
  auto bench = MonitorProcess::Start(arguments);
  if (!bench.ok()) {
    return bench.status();
  }
  const auto line = (*bench)->WaitForLine("\"cases\":", kTimeout);
  if (!line.ok()) {
    return line.status();
  }
  if (const auto end = (*bench)->WaitForEnd(); !end.ok()) {
    return end.status();
  }
  return Json::parse(*line, nullptr, /*allow_exceptions=*/false);
}

TEST(EngineBenchTest, EveryCaseMovesAndHasItsFigures) {
  const auto result = RunBench({"size=16", "rounds=1", "faulters=3", "--json"});
  ASSERT_TRUE(result.ok()) << result.status();
  const Json& json = *result;
  EXPECT_EQ(json["inputs"]["size_mib"], 16);
  EXPECT_THAT(json["inputs"]["where"].get<std::string>(), testing::HasSubstr("no KVM needed"));
  for (const char* kind : {"tcp-1", "tcp-4", "unix-1", "unix-4", "tls-1", "tls-4"}) {
    for (const char* limit : {"warm_ms", "fresh_ms", "fresh_beside_poller_ms", "bare_fault_p50_us"}) {
      EXPECT_GT(json["limits"][kind][limit], 0.0) << kind << " " << limit;
    }
  }
  std::set<std::string> names;
  for (const Json& one : json["cases"]) {
    const std::string name = one["name"];
    SCOPED_TRACE(name);
    names.insert(name);
    ASSERT_EQ(one["rounds"].size(), 1u);
    const Json& move = one["rounds"][0];
    EXPECT_EQ(move["wrong_pages"], 0);
    EXPECT_EQ(move["checked_pages"], 16 * kMiB / kPageBytes);
    for (const char* figure : {"total_ms", "standstill_ms", "arrival_gap_ms", "longest_gap_ms", "bytes",
                               "sent_of_filled", "writes", "source_cpu_s", "destination_cpu_s"}) {
      EXPECT_GT(move.value(figure, 0.0), 0.0) << figure;
    }
    for (const char* figure :
         {"quiet_gap_ms", "quiet_writes_per_s", "faults", "waits", "wait_p50_us", "wait_p99_us", "wait_sum_ms",
          "guest_wait_p99_us", "source_engine_cpu_s", "destination_engine_cpu_s", "rounds", "zero_pages"}) {
      EXPECT_TRUE(move.contains(figure)) << figure;
    }
    EXPECT_GE(move["longest_gap_ms"].get<double>(), move["arrival_gap_ms"].get<double>());
    if (name.find("zeros") == 0) {
      EXPECT_GE(move["zero_pages"], 12 * kMiB / kPageBytes - 1);
    } else {
      EXPECT_GE(move["bytes"], (name.find("whole") == 0 ? 8 : 12) * kMiB);
      EXPECT_GE(move["sent_of_filled"], 1.0);
    }
    EXPECT_TRUE(one.contains("of_fresh") && one.contains("median"));
  }
  EXPECT_EQ(names.size(), 60u);
  for (const char* name : {"idle-precopy-tcp-1", "light-precopy-tcp-1", "random-precopy-unix-4",
                           "sequential-postcopy-tcp-4", "random-postcopy-unix-1", "readers-postcopy-tcp-1",
                           "random-auto-tcp-1", "whole-auto-tcp-1", "readers-postcopy-tls-4"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

TEST(EngineBenchTest, OneCaseRunsOnceOnEachBacking) {
  for (const char* backing : {"memfd", "anon"}) {
    SCOPED_TRACE(backing);
    const auto result = RunBench({"case=readers-postcopy-tcp", "channels=2", "size=32", "--once", "--json",
                                  std::string("backing=") + backing, "thp=1"});
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ((*result)["cases"].size(), 1u);
    EXPECT_EQ((*result)["cases"][0]["name"], "readers-postcopy-tcp-2");
    EXPECT_TRUE((*result)["limits"].empty());
  }
}

// A guest in this process, with `spoil` done to its memory while it stands still.
GuestFigures RunSpoiled(GuestWork work, void (*spoil)(GuestMemory&), uint64_t& wrong) {
  auto memory = MakeEngineMemory({.bytes = 4 * kMiB});
  EXPECT_TRUE(memory.ok()) << memory.status();
  EngineGuest guest(**memory, {.set_pages = 768, .hot_pages = 256, .work = work});
  guest.Fill();
  guest.Resume();
  const MonotonicTime deadline = MonotonicTime::Now() + kTimeout;
  const auto run_until = [&](uint64_t writes) {
    while (guest.figures().writes < writes && MonotonicTime::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  };
  run_until(300);
  guest.Pause();
  EXPECT_EQ(guest.CheckAll(), 0u);
  spoil(**memory);
  wrong = guest.CheckAll();
  guest.Resume();
  run_until(guest.figures().writes + 300);
  guest.Pause();
  return guest.figures();
}

TEST(EngineGuestTest, FindsNothingWrongInItsOwnMemory) {
  for (const GuestWork work : {GuestWork::kIdle, GuestWork::kSequential, GuestWork::kRandom}) {
    uint64_t wrong = 0;
    EXPECT_EQ(RunSpoiled(
                  work, [](GuestMemory&) {}, wrong)
                  .wrong_pages,
              0u);
    EXPECT_EQ(wrong, 0u);
  }
}

TEST(EngineGuestTest, ItsThreadFindsAHotPageThatIsOld) {
  for (const GuestWork work : {GuestWork::kIdle, GuestWork::kSequential, GuestWork::kRandom}) {
    uint64_t wrong = 0;
    const auto lose_a_write = [](GuestMemory& memory) {
      ASSERT_TRUE(memory.Fill(GuestAddress(0), 0, kPageBytes).ok());
    };
    EXPECT_EQ(RunSpoiled(work, lose_a_write, wrong).wrong_pages, 1u);
    EXPECT_EQ(wrong, 1u);
  }
}

TEST(EngineGuestTest, TheCheckFindsOneWrongByteAnywhere) {
  for (const uint64_t page : {300, 767, 1023}) {
    auto memory = MakeEngineMemory({.bytes = 4 * kMiB});
    ASSERT_TRUE(memory.ok()) << memory.status();
    EngineGuest guest(**memory, {.set_pages = 768, .hot_pages = 256});
    guest.Fill();
    const GuestAddress address(page * kPageBytes + 1001);
    const auto before = (*memory)->ReadObject<uint8_t>(address);
    ASSERT_TRUE(before.ok());
    ASSERT_TRUE((*memory)->WriteObject(address, static_cast<uint8_t>(*before + 1)).ok());
    EXPECT_EQ(guest.CheckAll(), 1u) << page;
  }
}

TEST(EngineGuestTest, RefusesTheStateOfAnotherGuest) {
  auto memory = MakeEngineMemory({.bytes = 4 * kMiB});
  ASSERT_TRUE(memory.ok()) << memory.status();
  EngineGuest guest(**memory, {.set_pages = 768, .hot_pages = 256});
  EngineGuest other(**memory, {.set_pages = 768, .hot_pages = 128});
  EXPECT_TRUE(guest.Check(guest.Save()).ok());
  EXPECT_FALSE(guest.Check(other.Save()).ok());
  EXPECT_FALSE(guest.Check(std::vector<uint8_t>(8)).ok());
}

}  // namespace
}  // namespace ferrite
