// A move of a machine with memory and blocks (tests/fakes/fake_blocks.h).
#ifndef FERRITE_TESTS_MIGRATION_TWO_PARTS_H_
#define FERRITE_TESTS_MIGRATION_TWO_PARTS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "tests/fakes/fake_blocks.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {

// A machine with memory and blocks, which both are worked on from the start.
class TwoParts {
 public:
  // `mirrored`: the blocks are.
  explicit TwoParts(FakeMoveSetup setup = {}, bool mirrored = false) : move_(Small(std::move(setup))) {
    here_.mirrored = mirrored;
    there_->mirrored = mirrored;
    move_.port().parts = {&here_.outgoing()};
    move_.port().on_pause = [this] {
      EXPECT_FALSE(here_.blocking()) << "who stops the guest waits for what it writes";
      here_.Pause();
    };
    move_.port().on_resume = [this] {
      here_.Pause();
      here_.Run();
    };
    move_.destination().on_parts = [this] { return std::vector<IncomingPart*>{&there_->incoming()}; };
    move_.destination().on_load = [this] { there_->Remember(here_); };
    move_.destination().on_run = [this] {
      there_->Run();
      if (on_run) {
        on_run();
      }
    };
    here_.Run();
    here_.AwaitVisits(8 * FakeBlocks::kWorkedOn);
  }
  // Who waits for a block is woken before the move that could bring it is gone.
  ~TwoParts() { there_->Pause(); }

  FakeMoveResult Move(const MoveOptions& options,
                      const std::function<void(Source&, const MoveProgress&)>& during = nullptr) {
    // The parts live as long as the machine that they are of.
    move_.EndSession();
    there_->Pause();
    auto there = std::make_unique<FakeBlocks>();
    there->failure = fails_there;
    there->on_fill = on_fill_there;
    there->on_flush = on_flush_there;
    there->on_zero = on_zero_there;
    there->mirrored = mirrored_there.value_or(here_.mirrored);
    there_ = std::move(there);
    return move_.Move(options, during);
  }
  FakeMove& move() { return move_; }
  FakeBlocks& here() { return here_; }
  FakeBlocks& there() { return *there_; }

  BlocksFailure fails_there = BlocksFailure::kNone;
  std::function<void()> on_fill_there;
  std::function<void()> on_flush_there;
  std::function<void()> on_zero_there;
  // If not as the blocks here.
  std::optional<bool> mirrored_there;
  std::function<void()> on_run;

  void ExpectMoved(const FakeMoveResult& result) {
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    EXPECT_EQ(result.source_state, MoveState::kCompleted);
    EXPECT_EQ(result.destination_state, MoveState::kCompleted);
    EXPECT_FALSE(here_.running()) << "R2";
    EXPECT_FALSE(here_.tracking());
    there_->AwaitVisits(1000);
    there_->Pause();
    EXPECT_EQ(there_->errors(), 0u) << "R1";
    EXPECT_EQ(there_->CheckAll(), 0u) << "R1";
    ExpectGuestGoesOn(*move_.destination().guest(), 1000);
  }
  void ExpectStayed(const FakeMoveResult& result) {
    EXPECT_FALSE(result.source.ok());
    EXPECT_TRUE(move_.source_guest().running()) << "R3: " << result.source;
    EXPECT_TRUE(here_.running()) << "R3";
    EXPECT_FALSE(here_.tracking());
    EXPECT_FALSE(move_.port().tracking);
    EXPECT_FALSE(there_->running()) << "R2";
    here_.AwaitVisits(100);
    EXPECT_EQ(here_.errors(), 0u);
    EXPECT_FALSE(here_.blocking());
  }

 private:
  static FakeMoveSetup Small(FakeMoveSetup setup) {
    setup.bytes = uint64_t{16} << 20;
    if (setup.work.pages == FakeMoveSetup().work.pages) {
      setup.work = {.first_page = 256, .pages = 2048, .random = true};
    }
    return setup;
  }

  FakeBlocks here_;
  std::unique_ptr<FakeBlocks> there_ = std::make_unique<FakeBlocks>();
  FakeMove move_;
};

inline std::string ModeName(MoveMode mode) {
  return mode == MoveMode::kAuto ? "Auto" : mode == MoveMode::kPrecopy ? "Precopy" : "Postcopy";
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_MIGRATION_TWO_PARTS_H_
