#include "migration/placing/block_gatherer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/mapping.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlocks = 8;
constexpr uint64_t kFrame = 32;

// Shows pages by their states alone.
class FakeShower final : public BlockGatherer::Shower {
 public:
  explicit FakeShower(PageStates& states) : states_(states) {}

  absl::Status Copy(PageRun run, const uint8_t*) override {
    copied += run.count;
    Finish(run);
    return absl::OkStatus();
  }
  absl::Status Stage(uint64_t block, Mapping& memory) override {
    staged.push_back(block);
    on_stage();
    if (!memory.empty()) {
      return absl::OkStatus();
    }
    FERRITE_ASSIGN_OR_RETURN(memory, Mapping::Create("a block", kBlockPages * kPageBytes, MAP_PRIVATE | MAP_ANONYMOUS));
    return absl::OkStatus();
  }
  uint64_t Move(uint64_t block, uint8_t*) override {
    ++moved;
    Finish({.first = block * kBlockPages, .count = kBlockPages});
    return kBlockPages;
  }

  std::function<void()> on_stage = [] {};
  std::vector<uint64_t> staged;
  uint64_t copied = 0;
  int moved = 0;

 private:
  void Finish(PageRun run) {
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      states_.Finish(page);
    }
  }

  PageStates& states_;
};

class BlockGathererTest : public testing::Test {
 protected:
  BlockGathererTest() {
    // The first block is small, to compare with.
    Come({.first = 0, .count = kBlockPages});
    shower_.copied = 0;
  }

  // As a receiver does it.
  void Come(PageRun run) {
    gatherer_.Begin(run.first);
    for (; run.count > 0; run = {.first = run.first + kFrame, .count = run.count - kFrame}) {
      const PageRun frame{.first = run.first, .count = kFrame};
      uint64_t claimed = 0;
      for (uint64_t page = frame.first; page < frame.first + kFrame; ++page) {
        claimed += states_.Claim(page) ? 1 : 0;
      }
      ASSERT_EQ(claimed, kFrame);
      std::vector<uint8_t> buffer(kFrame * kPageBytes);
      (void)gatherer_.Target(frame);
      ASSERT_EQ(gatherer_.Publish(frame, buffer.data()), absl::OkStatus());
    }
  }

  FakeClock clock_;
  PageStates states_{kBlocks * kBlockPages};
  FakeShower shower_{states_};
  BlockGatherer gatherer_{states_, clock_, shower_};
};

// Making a huge page may take long, and no fault waits for it: what the block holds is nobody's as yet, and is asked
// for.
TEST_F(BlockGathererTest, PageOfABlockThatIsMadeCanBeAskedFor) {
  bool asked = false;
  shower_.on_stage = [&] { asked = states_.Request(kBlockPages + 3); };
  gatherer_.Begin(kBlockPages);
  EXPECT_TRUE(asked);
  // It comes over another channel, and the rest of the block with the block.
  ASSERT_TRUE(states_.Claim(kBlockPages + 3));
  states_.Finish(kBlockPages + 3);
  ASSERT_TRUE(states_.Claim(kBlockPages));
  const PageRun first{.first = kBlockPages, .count = 1};
  EXPECT_FALSE(gatherer_.Target(first).empty());
  ASSERT_EQ(gatherer_.Publish(first, nullptr), absl::OkStatus());
  EXPECT_EQ(states_.Get(kBlockPages), PageState::kReceiving);
  ASSERT_EQ(gatherer_.End(kBlockPages), absl::OkStatus());
  EXPECT_EQ(states_.Get(kBlockPages), PageState::kPresent);
  EXPECT_EQ(shower_.moved, 0);
}

TEST_F(BlockGathererTest, WholeBlockChangesHands) {
  Come({.first = kBlockPages, .count = kBlockPages});
  EXPECT_EQ(shower_.moved, 1);
  EXPECT_EQ(shower_.copied, 0u);
}

TEST_F(BlockGathererTest, BlockThatHasAPageOrDoesNotComeFromItsBeginningIsNotMade) {
  ASSERT_TRUE(states_.Claim(2 * kBlockPages + 9));
  gatherer_.Begin(2 * kBlockPages);
  gatherer_.Begin(3 * kBlockPages + kFrame);
  EXPECT_TRUE(shower_.staged.empty());
}

// A hostile source sends a block over two channels: each has begun with it, and one chunk gathers it.
TEST_F(BlockGathererTest, BlockThatTwoChannelsBringIsGatheredOnce) {
  bool first = true;
  shower_.on_stage = [&] {
    if (std::exchange(first, false)) {
      gatherer_.Begin(kBlockPages);
    }
  };
  Come({.first = kBlockPages, .count = kBlockPages});
  EXPECT_EQ(shower_.staged.size(), 2u);
  EXPECT_EQ(shower_.moved, 1);
}

// Blocks that faults break up were made in vain: that counts, too.
TEST_F(BlockGathererTest, BlocksThatAreMadeInVainAreGivenUp) {
  shower_.on_stage = [&] { clock_.Advance(absl::Milliseconds(20)); };
  for (uint64_t block = 1; block < kBlocks; ++block) {
    gatherer_.Begin(block * kBlockPages);
    ASSERT_EQ(gatherer_.End(block * kBlockPages), absl::OkStatus());
  }
  EXPECT_EQ(shower_.staged.size(), 1u) << "dearer than small ones, as the first one told";
}

}  // namespace
}  // namespace ferrite::migration
