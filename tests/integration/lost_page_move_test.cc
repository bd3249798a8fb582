// A guest with a page that the hardware lost moves, on real KVM (R9): who touches the page gets a machine check there,
// and who does not never notices.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "memory/guest_address.h"
#include "migration/api/move_options.h"
#include "tests/fakes/huge_page_pool.h"
#include "tests/fakes/lost_page.h"
#include "tests/integration/moving_payload.h"

namespace ferrite {
namespace {

using migration::MoveMode;

constexpr GuestAddress kPage{0x1000000};  // as lost.S
constexpr uint64_t kBytes = uint64_t{64} << 20;

struct Kind {
  const char* name;
  MoveMode mode;
  MemoryBacking backing;
  bool met;  // the guest has touched it before the move
};

class LostPageMovesTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam().backing == MemoryBacking::kHugetlb2M) {
      pool_.emplace(3 * kBytes / (2 << 20));
      if (!pool_->status().ok()) {
        GTEST_SKIP() << pool_->status();
      }
    }
    MachineConfig config;
    config.memory_bytes = kBytes;
    config.memory_backing = GetParam().backing;
    config.command_line = "g";
    auto moving = MovingPayload::Run("lost", config);
    ASSERT_TRUE(moving.ok()) << moving.status();
    moving_ = *std::move(moving);
    const auto ready = moving_->here().WaitFor("ready");
    ASSERT_TRUE(ready.ok()) << ready.status();
  }

  void TouchExpectingACheck() {
    ASSERT_TRUE(moving_->here().Send('t').ok());
    const auto check = moving_->here().WaitFor("check");
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_EQ(check->Number("address"), kPage.value());
    EXPECT_EQ(check->Number("mcg"), 7u);
    const auto went_on = moving_->here().WaitFor("went-on");
    ASSERT_TRUE(went_on.ok()) << went_on.status();
  }
  void Move(MoveMode mode) {
    const MoveResult result = moving_->Move({.options = {.mode = mode}});
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    EXPECT_EQ(result.report.lost_at, std::vector<uint64_t>{kPage.value()});
    EXPECT_EQ(moving_->here().memory().LostPages(), std::vector<GuestAddress>{kPage});
  }

  std::optional<HugePagePool> pool_;
  PageLoser loser_;
  std::unique_ptr<MovingPayload> moving_;
};

TEST_P(LostPageMovesTest, ThereAndBack) {
  // There is something to lose: a page that a memfd never had is sent as untouched, and is whole there.
  ASSERT_EQ(moving_->here().memory().WriteObject<uint64_t>(kPage, 1).ToString(), "OK");
  MemoryRegion& region = *moving_->here().memory().Find(kPage);
  // Where the kernel cannot mark a page, it is as one that came there by a move.
  const absl::Status lost =
      PageLoser::Supported().ok() ? loser_.Lose(region, kPage.value()) : region.HideLost(kPage.value());
  ASSERT_EQ(lost.ToString(), "OK");
  if (GetParam().met) {
    ASSERT_NO_FATAL_FAILURE(TouchExpectingACheck());
  }
  ASSERT_NO_FATAL_FAILURE(Move(GetParam().mode));
  EXPECT_EQ(moving_->here().machine().state(), MachineState::kRunning);
  ASSERT_NO_FATAL_FAILURE(TouchExpectingACheck());
  ASSERT_NO_FATAL_FAILURE(Move(GetParam().mode == MoveMode::kPostcopy ? MoveMode::kPrecopy : MoveMode::kPostcopy));
  ASSERT_NO_FATAL_FAILURE(TouchExpectingACheck());
}

constexpr MemoryBacking kAnon = MemoryBacking::kAnonymous;
INSTANTIATE_TEST_SUITE_P(All, LostPageMovesTest,
                         testing::Values(Kind{"PrecopyAnonymous", MoveMode::kPrecopy, kAnon, true},
                                         Kind{"PrecopyMemfd", MoveMode::kPrecopy, MemoryBacking::kMemfd, false},
                                         Kind{"PrecopyHugetlb", MoveMode::kPrecopy, MemoryBacking::kHugetlb2M, true},
                                         Kind{"PostcopyAnonymous", MoveMode::kPostcopy, kAnon, false},
                                         Kind{"PostcopyMemfd", MoveMode::kPostcopy, MemoryBacking::kMemfd, true},
                                         Kind{"PostcopyHugetlb", MoveMode::kPostcopy, MemoryBacking::kHugetlb2M,
                                              false}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ferrite
