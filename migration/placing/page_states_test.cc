#include "migration/placing/page_states.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>
#include <vector>

namespace ferrite::migration {
namespace {

// The table as a naive model: a map from unit to state, and the rules of the header.
class Model {
 public:
  PageState& operator[](uint64_t unit) { return states_[unit]; }
  uint64_t missing(uint64_t units) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < units; ++i) {
      count += states_[i] != PageState::kPresent && states_[i] != PageState::kPoisoned ? 1 : 0;
    }
    return count;
  }

 private:
  std::map<uint64_t, PageState> states_;
};

TEST(PageStatesTest, BehavesAsTheModel) {
  constexpr uint64_t kUnits = 50;
  PageStates states(kUnits);
  Model model;
  std::mt19937 random(11);
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t unit = random() % kUnits;
    PageState& expected = model[unit];
    const bool open = expected == PageState::kAbsent || expected == PageState::kRequested;
    switch (random() % 8) {
      case 0:
        EXPECT_EQ(states.Request(unit), expected == PageState::kAbsent) << "R5";
        if (expected == PageState::kAbsent) {
          expected = PageState::kRequested;
        }
        break;
      case 1:
        EXPECT_EQ(states.Claim(unit), open);
        expected = open ? PageState::kReceiving : expected;
        break;
      case 2:
        if (expected == PageState::kReceiving) {
          states.Finish(unit);
          expected = PageState::kPresent;
        }
        break;
      case 3:
        if (expected == PageState::kReceiving) {
          states.Abandon(unit);
          expected = PageState::kRequested;
        }
        break;
      case 4:
        if (expected == PageState::kReceiving) {
          states.FinishPoisoned(unit);
          expected = PageState::kPoisoned;
        }
        break;
      case 5:
        EXPECT_EQ(states.Discard(unit), expected == PageState::kPresent || expected == PageState::kPoisoned);
        expected = expected == PageState::kPresent || expected == PageState::kPoisoned ? PageState::kAbsent : expected;
        break;
      case 6:
        states.Lose(unit);
        expected = expected == PageState::kAbsent || expected == PageState::kPresent ? PageState::kPoisoned : expected;
        break;
      default:
        states.SetPresent(unit);
        expected = expected == PageState::kAbsent ? PageState::kPresent : expected;
        break;
    }
    ASSERT_EQ(states.Get(unit), expected);
    ASSERT_EQ(states.missing(), model.missing(kUnits));
  }
}

TEST(PageStatesTest, OneOfManyIsToAskAndOneToPlace) {
  constexpr uint64_t kUnits = 10'000;
  PageStates states(kUnits);
  std::atomic<uint64_t> asked = 0;
  std::atomic<uint64_t> placed = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kUnits; ++i) {
        const uint64_t unit = t % 2 == 0 ? i : kUnits - 1 - i;
        asked += states.Request(unit) ? 1 : 0;
        if (states.Claim(unit)) {
          states.Finish(unit);
          ++placed;
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_LE(asked, kUnits) << "R5";
  EXPECT_EQ(placed, kUnits) << "R1";
  EXPECT_EQ(states.missing(), 0u);
}

}  // namespace
}  // namespace ferrite::migration
