// Whole moves over an RDMA device, the one at the address in FERRITE_TEST_RDMA: what goes well, and what breaks. The
// guest checks each page that it comes to (R1), and runs in one place (R2, R3). All else that may befall a move over
// RDMA is played over a fabric: tests/migration/rdma_move_test.cc.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "memory/memory_region.h"
#include "migration/api/move_options.h"
#include "tests/fakes/cut_verbs.h"
#include "tests/migration/landing.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 100;

// Small: one emulated processor does it all.
FakeMoveSetup OverDevice(const char* landing = "Small") {
  return {.bytes = uint64_t{24} << 20,
          .landing = &LandingNamed(landing),
          .work = {.first_page = 256, .pages = 2048, .random = true},
          .tcp = true,
          .rdma = true};
}

// A round need not come down to milliseconds; it takes longer than a key does to come.
MoveOptions InMode(MoveMode mode, int channels) {
  return {.mode = mode, .downtime_limit = absl::Seconds(1), .max_bandwidth = uint64_t{32} << 20, .channels = channels};
}

std::string ModeName(MoveMode mode) {
  return mode == MoveMode::kPrecopy ? "Precopy" : mode == MoveMode::kPostcopy ? "Postcopy" : "Auto";
}

class RdmaMoveTest : public testing::TestWithParam<std::tuple<const char*, MoveMode, int>> {
 protected:
  void SetUp() override { ASSERT_FALSE(RdmaDevice().empty()) << "FERRITE_TEST_RDMA: the address of a device"; }
};

TEST_P(RdmaMoveTest, GuestHasAllItsMemory) {
  const auto [landing, mode, channels] = GetParam();
  FakeMove move(OverDevice(landing));
  const FakeMoveResult result = move.Move(InMode(mode, channels));
  ASSERT_NO_FATAL_FAILURE(ExpectArrived(move, result, kSteps));
  const bool registers = LandingNamed(landing).backing == MemoryBacking::kAnonymous;
  const bool has_written = move.device().writes() > 0;
  const bool has_read = move.device().reads() > 0;
  switch (mode) {
    case MoveMode::kPrecopy:
      EXPECT_EQ(has_written, registers);
      break;
    case MoveMode::kPostcopy:
      EXPECT_FALSE(has_written);
      EXPECT_TRUE(has_read);
      break;
    case MoveMode::kAuto:
      // The guest may have gone before there was a key.
      EXPECT_TRUE(has_written || has_read);
      break;
  }
}

std::string CaseName(const testing::TestParamInfo<std::tuple<const char*, MoveMode, int>>& info) {
  const auto [landing, mode, channels] = info.param;
  return absl::StrCat(landing, ModeName(mode), channels);
}
INSTANTIATE_TEST_SUITE_P(Modes, RdmaMoveTest,
                         testing::Combine(testing::Values("Small"),
                                          testing::Values(MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto),
                                          testing::Values(1, 2)),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Backings, RdmaMoveTest,
                         testing::Values(std::tuple("Memfd", MoveMode::kPostcopy, 2),
                                         std::tuple("Huge", MoveMode::kAuto, 2)),
                         CaseName);

// Before the guest is handed over: it runs on here, or the move goes on with new ones.
TEST(RdmaBreakTest, QueuePairsThatBreakInTheRoundsCostNoGuest) {
  FakeMove move(OverDevice());
  bool cut = false;
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPrecopy, .max_bandwidth = uint64_t{32} << 20, .channels = 2},
                [&](Source&, const MoveProgress& progress) {
                  if (progress.round >= 1 && progress.sent_bytes > uint64_t{1} << 20 && !cut) {
                    cut = true;
                    EXPECT_GE(move.device().CutAll(), 4u);
                  }
                });
  EXPECT_TRUE(cut);
  ExpectOneRunner(move, result, kSteps);
}

// R4: a connection that is lost while pages are missing there.
TEST(RdmaBreakTest, MoveGoesOnWhenAllConnectionsAreLost) {
  FakeMoveSetup setup = OverDevice();
  setup.relay = true;
  FakeMove move(setup);
  move.destination().on_run = [&] { move.relay().CutAfter(2000); };  // little of it is pages
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = uint64_t{16} << 20, .channels = 2});
  ASSERT_NO_FATAL_FAILURE(ExpectArrived(move, result, kSteps));
  EXPECT_EQ(result.report.recoveries, 1u);
}

// Likewise queue pairs, and no connection.
TEST(RdmaBreakTest, QueuePairsThatBreakInPostcopyLoseNoPage) {
  FakeMove move(OverDevice());
  move.destination().on_run = [&] { move.device().CutAll(); };
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = uint64_t{16} << 20, .channels = 2});
  ExpectArrived(move, result, kSteps);
}

}  // namespace
}  // namespace ferrite::migration
