// A running guest goes to another monitor. It proves it itself: it knows what must be in every page (R1), and what it
// planted in its registers.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/move_options.h"
#include "tests/fakes/huge_page_pool.h"
#include "tests/fakes/test_place.h"
#include "tests/integration/moving_payload.h"
#include "vmm/machine/balloon_port.h"

namespace ferrite {
namespace {

using migration::MoveMode;
using migration::MoveState;

#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
constexpr bool kUnderSanitizer = true;
#else
constexpr bool kUnderSanitizer = false;
#endif

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
// More than the 3 GiB that are below the hole, and no more than the host has.
const uint64_t kAboveFourGib = ForPlace(5 * kGiB, 3 * kGiB + 256 * kMiB);
// The watch over the standstill follows it; a processor that is slow, or busy, takes seconds for so many pages' states.
constexpr absl::Duration kDowntimeOfMany = absl::Seconds(5);

std::unique_ptr<MovingPayload> Start(absl::string_view program, MachineConfig config) {
  auto moving = MovingPayload::Run(program, std::move(config));
  EXPECT_TRUE(moving.ok()) << moving.status();
  return moving.ok() ? *std::move(moving) : nullptr;
}

// The guest runs at the destination, works on, and has all of its memory.
void ExpectMoved(MovingPayload& moving, const MoveResult& result) {
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  EXPECT_EQ(result.source_state, MoveState::kCompleted);
  EXPECT_EQ(result.destination_state, MoveState::kCompleted);
  EXPECT_EQ(moving.here().machine().state(), MachineState::kRunning);
  const auto check = moving.here().Check();
  EXPECT_TRUE(check.ok()) << check.status();
}

struct Kind {
  const char* name;
  const char* options;
  MoveMode mode;
  uint32_t cpus = 1;
  MemoryBacking backing = MemoryBacking::kAnonymous;
  bool thp = true;  // of few pages here and there, each would bring its neighbours
  bool tcp = false;
  uint64_t bytes = 128 * kMiB;
  uint64_t bandwidth = 0;
  absl::Duration downtime_limit = absl::Milliseconds(50);
  // Of what the guest has filled.
  uint64_t data_pages = 0;
  uint64_t zero_pages = 0;
};

class GuestMovesTest : public testing::TestWithParam<Kind> {};

TEST_P(GuestMovesTest, ThereAndBack) {
  const Kind& kind = GetParam();
  std::optional<HugePagePool> pool;
  if (kind.backing == MemoryBacking::kHugetlb2M) {
    pool.emplace(2 * kind.bytes / (2 * kMiB));
    if (!pool->status().ok()) {
      GTEST_SKIP() << pool->status();
    }
  }
  MachineConfig config;
  config.cpus = kind.cpus;
  config.memory_bytes = kind.bytes;
  config.memory_backing = kind.backing;
  config.transparent_huge_pages = kind.thp;
  config.command_line = absl::StrCat(kind.options, " report_ms=10");
  const auto moving = Start("dirty", config);
  ASSERT_NE(moving, nullptr);
  const auto filled = moving->here().WaitFor("filled");
  ASSERT_TRUE(filled.ok()) << filled.status();
  uint64_t writes = 0;
  for (int i = 0; i < 2; ++i) {
    SCOPED_TRACE(absl::StrCat("move ", i));
    const MoveResult result = moving->Move({.options = {.mode = kind.mode,
                                                        .downtime_limit = kind.downtime_limit,
                                                        .max_bandwidth = kind.bandwidth,
                                                        .max_postcopy_bandwidth = kind.bandwidth},
                                            .tcp = kind.tcp});
    ExpectMoved(*moving, result);
    if (HasFatalFailure()) {
      return;
    }
    if (kind.mode == MoveMode::kPostcopy) {
      EXPECT_TRUE(result.report.postcopy);
    }
    if (kind.mode == MoveMode::kPrecopy) {
      EXPECT_FALSE(result.report.postcopy);
    }
    EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
    EXPECT_GE(result.report.data_pages, kind.data_pages);
    EXPECT_GE(result.report.zero_pages, kind.zero_pages);
    const auto check = moving->here().Check();
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_GE(check->Number("writes"), writes);
    writes = check->Number("writes");
  }
}

constexpr MemoryBacking kMemfd = MemoryBacking::kMemfd;
constexpr MemoryBacking kHuge = MemoryBacking::kHugetlb2M;

INSTANTIATE_TEST_SUITE_P(
    All, GuestMovesTest,
    testing::Values(Kind{.name = "PrecopyIdle",
                         .options = "set=16M idle=1",
                         .mode = MoveMode::kPrecopy,
                         .data_pages = 16 * kMiB / kPageBytes},
                    Kind{.name = "PrecopyIdleTcp",
                         .options = "set=16M idle=1",
                         .mode = MoveMode::kPrecopy,
                         .tcp = true,
                         .data_pages = 16 * kMiB / kPageBytes},
                    Kind{.name = "PrecopyZeroes",
                         .options = "fill=zero set=16M idle=1",
                         .mode = MoveMode::kPrecopy,
                         .zero_pages = 16 * kMiB / kPageBytes},
                    Kind{.name = "PrecopySlowWriter",
                         .options = "mode=step set=8M rate=5000",
                         .mode = MoveMode::kPrecopy,
                         .cpus = 2},
                    Kind{.name = "PrecopyAnonymous",
                         .options = "mode=random set=8M rate=5000",
                         .mode = MoveMode::kPrecopy,
                         .backing = kMemfd},
                    Kind{.name = "PrecopyOneGib",
                         .options = ForPlace("set=768M idle=1", "set=64M idle=1"),
                         .mode = MoveMode::kPrecopy,
                         .tcp = true,
                         .bytes = kGiB,
                         .data_pages = ForPlace(768, 64) * kMiB / kPageBytes},
                    Kind{.name = "PrecopyAboveFourGib",
                         .options = "set=all stride=1024 mode=random rate=2000",
                         .mode = MoveMode::kPrecopy,
                         .cpus = 2,
                         .thp = false,
                         .bytes = kAboveFourGib,
                         .downtime_limit = kDowntimeOfMany},
                    Kind{.name = "PrecopyHugePages",
                         .options = "mode=step set=16M rate=5000",
                         .mode = MoveMode::kPrecopy,
                         .cpus = 2,
                         .backing = kHuge,
                         .bytes = 64 * kMiB},
                    Kind{.name = "PostcopyIdle",
                         .options = "set=16M idle=1",
                         .mode = MoveMode::kPostcopy,
                         .data_pages = 16 * kMiB / kPageBytes},
                    Kind{.name = "PostcopyZeroes",
                         .options = "fill=zero set=16M idle=1",
                         .mode = MoveMode::kPostcopy,
                         .tcp = true,
                         .zero_pages = 16 * kMiB / kPageBytes},
                    Kind{.name = "PostcopyStep", .options = "mode=step set=16M", .mode = MoveMode::kPostcopy},
                    Kind{.name = "PostcopyStepTwoCpusTcp",
                         .options = "mode=step set=16M",
                         .mode = MoveMode::kPostcopy,
                         .cpus = 2,
                         .tcp = true},
                    Kind{.name = "PostcopySequentialFasterThanTheChannel",
                         .options = "set=16M",
                         .mode = MoveMode::kPostcopy,
                         .tcp = true,
                         .bandwidth = 64 * kMiB},
                    Kind{.name = "PostcopyRandomFasterThanTheChannel",
                         .options = "mode=random write=word fill=zero set=16M",
                         .mode = MoveMode::kPostcopy,
                         .cpus = 2,
                         .bandwidth = 64 * kMiB},
                    Kind{.name = "PostcopyAnonymous",
                         .options = "mode=step set=8M",
                         .mode = MoveMode::kPostcopy,
                         .cpus = 2,
                         .backing = kMemfd,
                         .tcp = true},
                    Kind{.name = "PostcopyOneGib",
                         .options = ForPlace("mode=random set=256M", "mode=random set=64M"),
                         .mode = MoveMode::kPostcopy,
                         .cpus = 2,
                         .bytes = kGiB,
                         .downtime_limit = kDowntimeOfMany},
                    Kind{.name = "PostcopyAboveFourGib",
                         .options = "set=all stride=1024 mode=random",
                         .mode = MoveMode::kPostcopy,
                         .cpus = 2,
                         .thp = false,
                         .bytes = kAboveFourGib,
                         .downtime_limit = kDowntimeOfMany},
                    Kind{.name = "PostcopyHugePages",
                         .options = "mode=random set=16M",
                         .mode = MoveMode::kPostcopy,
                         .cpus = 2,
                         .backing = kHuge,
                         .tcp = true,
                         .bytes = 64 * kMiB},
                    Kind{.name = "AutoIdle", .options = "set=16M idle=1", .mode = MoveMode::kAuto},
                    Kind{.name = "AutoSequentialFasterThanTheChannel",
                         .options = "set=16M",
                         .mode = MoveMode::kAuto,
                         .tcp = true,
                         .bandwidth = 64 * kMiB},
                    Kind{.name = "AutoRandomFasterThanTheChannel",
                         .options = "mode=random write=word set=16M",
                         .mode = MoveMode::kAuto,
                         .cpus = 2,
                         .bandwidth = 64 * kMiB},
                    Kind{.name = "AutoOneGib",
                         .options = ForPlace("mode=step set=256M", "mode=step set=64M"),
                         .mode = MoveMode::kAuto,
                         .cpus = 2,
                         .bytes = kGiB},
                    Kind{.name = "AutoHugePages",
                         .options = "mode=step set=16M",
                         .mode = MoveMode::kAuto,
                         .cpus = 2,
                         .backing = kHuge,
                         .bytes = 64 * kMiB}),
    [](const testing::TestParamInfo<Kind>& info) { return std::string(info.param.name); });

// The guest itself finds that its registers are kept and that time never goes back. What it says of its clock is by how
// much that ran ahead of the time stamp counter: no more than it may be told of the time that it stood still.
TEST(MoveTest, RegistersInterruptControllersAndTimeAreKept) {
  MachineConfig config;
  config.cpus = 2;
  config.memory_bytes = 64 * kMiB;
  config.command_line = "report_ms=10";
  const auto moving = Start("count", config);
  ASSERT_NE(moving, nullptr);
  uint64_t clock_ns = 0;
  absl::Duration stood_still;
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto, MoveMode::kPostcopy}) {
    ASSERT_TRUE(moving->here().WaitFor("count").ok());
    const MoveResult result = moving->Move({.options = {.mode = mode}});
    ASSERT_TRUE(result.source.ok()) << result.source;
    stood_still = std::max(stood_still, result.report.downtime);
    // Two lines of each vCPU: the first may have begun at the source.
    for (int i = 0; i < 4; ++i) {
      const auto line = moving->here().WaitFor("count");
      ASSERT_TRUE(line.ok()) << line.status();
      EXPECT_LE(absl::Nanoseconds(line->Number("clock_ahead_ns")), stood_still + absl::Milliseconds(1));
      if (line->Number("cpu") == 0 && line->Number("clock_ns") != 0) {
        EXPECT_GT(line->Number("clock_ns"), clock_ns);
        clock_ns = line->Number("clock_ns");
      }
    }
    ASSERT_TRUE(moving->here().console().errors().empty()) << moving->here().console().errors().front();
  }
  EXPECT_GT(clock_ns, 0u);
}

TEST(MoveTest, PausedMachineArrivesPaused) {
  MachineConfig config;
  config.memory_bytes = 64 * kMiB;
  config.command_line = "mode=step set=4M report_ms=10";
  const auto moving = Start("dirty", config);
  ASSERT_NE(moving, nullptr);
  ASSERT_TRUE(moving->here().WaitFor("filled").ok());
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    ASSERT_TRUE(moving->here().machine().Pause().ok());
    const MoveResult result = moving->Move({.options = {.mode = mode}});
    ASSERT_TRUE(result.source.ok()) << result.source;
    EXPECT_EQ(moving->here().machine().state(), MachineState::kPaused);
    ASSERT_TRUE(moving->here().machine().Resume().ok());
    const auto check = moving->here().Check();
    EXPECT_TRUE(check.ok()) << check.status();
  }
}

TEST(MoveTest, NobodyRunsTheGuestBetweenTheMonitors) {
  MachineConfig config;
  config.memory_bytes = 64 * kMiB;
  config.command_line = "mode=step set=4M report_ms=10";
  const auto moving = Start("dirty", config);
  ASSERT_NE(moving, nullptr);
  ASSERT_TRUE(moving->here().WaitFor("filled").ok());
  Machine& source = moving->here().machine();
  Machine* there = nullptr;
  int looked = 0;
  const MoveResult result =
      moving->Move({.options = {.mode = MoveMode::kPostcopy},
                    .during =
                        [&](migration::Source&, const migration::MoveProgress& progress) {
                          if (progress.state == MoveState::kPostcopyActive) {
                            ++looked;
                            EXPECT_EQ(source.Resume().code(), absl::StatusCode::kFailedPrecondition) << "R2";
                            EXPECT_EQ(source.Reset().code(), absl::StatusCode::kFailedPrecondition) << "R2";
                          } else if (progress.state == MoveState::kActive && there != nullptr) {
                            EXPECT_FALSE(there->Resume().ok()) << "R2";
                          }
                        },
                    .built = [&](Machine& machine) { there = &machine; }});
  ExpectMoved(*moving, result);
  EXPECT_GT(looked, 0);
}

// Until the guest's balloon has that size. Reports come all the time: none is missed.
void AwaitBalloon(MovingPayload& moving, uint64_t bytes) {
  const MonotonicTime deadline = MonotonicTime::Now() + PayloadMachine::kTimeout;
  while (true) {
    const auto line = moving.here().WaitFor("virtio");
    ASSERT_TRUE(line.ok()) << line.status();
    if (line->Number("balloon_pages") == bytes / kPageBytes) {
      return;
    }
    ASSERT_LT(MonotonicTime::Now(), deadline) << line->text();
  }
}

struct BalloonKind {
  const char* name;
  MoveMode mode;
  MemoryBacking backing;
};

class BalloonMovesTest : public testing::TestWithParam<BalloonKind> {};

TEST_P(BalloonMovesTest, IsNotSentAndWaitsForTheEndOfTheMove) {
  MachineConfig config;
  config.memory_bytes = 128 * kMiB;
  config.memory_backing = GetParam().backing;
  config.devices = {BalloonConfig{.bytes = 16 * kMiB}};
  config.command_line = "fill=32M report_ms=10";
  const auto moving = Start("virtio", config);
  ASSERT_NE(moving, nullptr);
  uint64_t size = 16 * kMiB;
  // Asked to inflate during the first move, and to deflate during the second one.
  for (const uint64_t wish : {24 * kMiB, 4 * kMiB}) {
    SCOPED_TRACE(absl::StrCat("to ", wish >> 20, " MiB"));
    ASSERT_NO_FATAL_FAILURE(AwaitBalloon(*moving, size));
    const auto resident = ResidentBytes(moving->here().memory());
    ASSERT_TRUE(resident.ok());
    Machine& source = moving->here().machine();
    Machine* there = nullptr;
    bool asked = false;
    bool stood_still = false;
    const MoveResult result = moving->Move({
        .options = {.mode = GetParam().mode, .max_bandwidth = 64 * kMiB},
        .during =
            [&](migration::Source&, const migration::MoveProgress& progress) {
              if (progress.state == MoveState::kActive && !asked) {
                asked = true;
                EXPECT_TRUE(source.balloon()->SetTarget(wish).ok());
                EXPECT_TRUE(there->balloon()->inhibited()) << "R8";
              }
            },
        .built = [&](Machine& machine) { there = &machine; },
        .on_save =
            [&](migration::Source&) {
              stood_still = true;
              EXPECT_TRUE(source.balloon()->inhibited()) << "R8";
              EXPECT_EQ(source.balloon()->Figures().target_bytes, wish);
              EXPECT_EQ(source.balloon()->Figures().actual_bytes, size) << "R8: the guest heard of it during the move";
            },
    });
    ExpectMoved(*moving, result);
    if (HasFatalFailure()) {
      return;
    }
    EXPECT_TRUE(asked && stood_still);
    EXPECT_GE(result.report.skipped_pages, size / kPageBytes) << "R8";
    EXPECT_LE(result.report.data_pages - result.report.resent_pages, *resident / kPageBytes) << "R8";
    // What was asked for in the time of the move is done afterwards.
    EXPECT_FALSE(moving->here().machine().balloon()->inhibited());
    EXPECT_EQ(moving->here().machine().balloon()->Figures().target_bytes, wish) << "R8";
    ASSERT_NO_FATAL_FAILURE(AwaitBalloon(*moving, wish));
    const auto check = moving->here().Check();
    EXPECT_TRUE(check.ok()) << check.status();
    size = wish;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BalloonMovesTest,
                         testing::Values(BalloonKind{"Precopy", MoveMode::kPrecopy, MemoryBacking::kMemfd},
                                         BalloonKind{"Postcopy", MoveMode::kPostcopy, MemoryBacking::kMemfd},
                                         BalloonKind{"PostcopyAnonymous", MoveMode::kPostcopy,
                                                     MemoryBacking::kAnonymous}),
                         [](const testing::TestParamInfo<BalloonKind>& info) { return std::string(info.param.name); });

uint64_t LockedBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  uint64_t kib = 0;
  while (status >> word && word != "VmLck:") {
  }
  status >> kib;
  return kib << 10;
}

TEST(MoveTest, LockedMemoryIsLockedAtTheDestinationOnlyAtTheEnd) {
  if (kUnderSanitizer) {
    GTEST_SKIP() << "the sanitizer's mlock() locks nothing";
  }
  MachineConfig config;
  config.memory_bytes = 64 * kMiB;
  config.cpus = 2;
  config.lock_memory = true;
  config.command_line = "mode=step set=16M report_ms=10";
  const auto moving = Start("dirty", config);
  ASSERT_NE(moving, nullptr);
  ASSERT_TRUE(moving->here().WaitFor("filled").ok());
  ASSERT_EQ(LockedBytes(), config.memory_bytes);
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto}) {
    uint64_t at_switchover = 0;
    ExpectMoved(*moving, moving->Move({.options = {.mode = mode},
                                       .arrival = {.lock_memory = true},
                                       .on_save = [&](migration::Source&) { at_switchover = LockedBytes(); }}));
    EXPECT_EQ(at_switchover, config.memory_bytes) << "R8: the source's and nothing else";
    EXPECT_EQ(LockedBytes(), config.memory_bytes) << "R8: the destination's";
  }
}

uint64_t HugeBytes(PayloadMachine& machine) {
  uint64_t bytes = 0;
  for (const auto& region : machine.memory().regions()) {
    bytes += region->HugeBytes().value_or(0);
  }
  return bytes;
}

// A host without huge pages has none before the move, and none behind it.
TEST(MoveTest, GuestIsAsHugeAfterAMoveAsBefore) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto}) {
    SCOPED_TRACE(static_cast<int>(mode));
    MachineConfig config;
    config.memory_bytes = ForPlace(128, 64) * kMiB;
    config.command_line = absl::StrCat("mode=random report_ms=10 ", ForPlace("set=96M", "set=24M"));
    const auto moving = Start("dirty", config);
    ASSERT_NE(moving, nullptr);
    ASSERT_TRUE(moving->here().WaitFor("filled").ok());
    const uint64_t before = HugeBytes(moving->here());
    // A guest that never stands still, over a channel that is slower than it.
    const MoveResult result = moving->Move({.options = {.mode = mode, .max_bandwidth = 256 * kMiB}});
    ASSERT_NO_FATAL_FAILURE(ExpectMoved(*moving, result));
    const uint64_t after = HugeBytes(moving->here());
    // Of few of them, two that hold a page or so are more than a twentieth.
    EXPECT_GE(after + ForPlace(0, 4) * kMiB, before - before / 20) << before << " bytes were huge";
    (void)std::printf("huge: %llu MiB before, %llu after\n", static_cast<unsigned long long>(before / kMiB),
                      static_cast<unsigned long long>(after / kMiB));
  }
}

// What the kernel counts as resident of this process's mappings of guest memory.
uint64_t MappedGuestBytes() {
  std::ifstream smaps("/proc/self/smaps");
  uint64_t bytes = 0;
  bool of_guest = false;
  for (std::string line; std::getline(smaps, line);) {
    if (absl::StrContains(line, "memfd:ferrite-ram")) {
      of_guest = true;
    } else if (absl::StartsWith(line, "VmFlags:")) {
      of_guest = false;
    } else if (of_guest && absl::StartsWith(line, "Rss:")) {
      bytes += std::stoull(line.substr(4)) << 10;
    }
  }
  return bytes;
}

TEST(MoveTest, MemoryIsMappedOnceWhenAPostcopyHasSettled) {
  MachineConfig config;
  config.memory_bytes = 64 * kMiB;
  config.memory_backing = MemoryBacking::kMemfd;
  config.command_line = "mode=step set=40M report_ms=10";
  const auto moving = Start("dirty", config);
  ASSERT_NE(moving, nullptr);
  ASSERT_TRUE(moving->here().WaitFor("filled").ok());
  const MoveResult result = moving->Move({.options = {.mode = MoveMode::kPostcopy}});
  // The guest has read all that it had filled: it has it mapped, and a second mapping would have it, too.
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(*moving, result));
  EXPECT_GE(MappedGuestBytes(), 40 * kMiB);
  EXPECT_LE(MappedGuestBytes(), config.memory_bytes);
}

// A guest that dirties faster than the channel, and a move that must not turn into post-copy.
TEST(MoveTest, ThrottleLetsPrecopyConverge) {
  MachineConfig config;
  config.memory_bytes = 64 * kMiB;
  config.cpus = 2;
  // Both take little of a processor, so that on a busy host, too, the guest is the faster one until it is throttled.
  config.command_line = "mode=step set=2M rate=25000 report_ms=10";
  const auto moving = Start("dirty", config);
  ASSERT_NE(moving, nullptr);
  ASSERT_TRUE(moving->here().WaitFor("filled").ok());
  int most = 0;
  // A guest that got no processor during a round was slow enough.
  for (int attempt = 0; most == 0 && attempt < 5; ++attempt) {
    const MoveResult result =
        moving->Move({.options = {.mode = MoveMode::kPrecopy, .max_bandwidth = 16 * kMiB, .timeout = absl::Minutes(1)},
                      .during = [&](migration::Source&, const migration::MoveProgress& progress) {
                        most = std::max(most, progress.throttle_percent);
                      }});
    ASSERT_NO_FATAL_FAILURE(ExpectMoved(*moving, result));
    EXPECT_FALSE(result.report.postcopy);
  }
  EXPECT_GT(most, 0);
}

}  // namespace
}  // namespace ferrite
