#include "migration/placing/asked_pages.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <set>
#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "memory/page_range.h"

namespace ferrite::migration {
namespace {

using Units = std::vector<PageRange>;

class AskedPagesTest : public testing::Test {
 protected:
  const MonotonicTime start_ = MonotonicTime::Now();
  const MonotonicTime due_ = start_ + AskedPages::kPatience;
  std::set<uint64_t> came_;
  AskedPages asked_{[this](const PageRange& unit) { return !came_.contains(unit.first); }};
};

TEST_F(AskedPagesTest, WhatDoesNotComeIsOverdueOnce) {
  EXPECT_EQ(asked_.NextAt(), std::nullopt);
  asked_.Add(std::array{PageRange{0, 4, 1}, PageRange{1, 8, 1}}, start_);
  EXPECT_EQ(asked_.NextAt(), due_);
  EXPECT_EQ(asked_.TakeOverdue(due_ - absl::Nanoseconds(1)), Units());
  EXPECT_EQ(asked_.TakeOverdue(due_), (Units{{0, 4, 1}, {1, 8, 1}}));
  EXPECT_EQ(asked_.NextAt(), std::nullopt);
  EXPECT_EQ(asked_.TakeOverdue(due_ + absl::Hours(1)), Units());
}

TEST_F(AskedPagesTest, WhatHasComeIsForgotten) {
  asked_.Add(std::array{PageRange{0, 4, 1}, PageRange{0, 5, 1}}, start_);
  asked_.Add(std::array{PageRange{0, 6, 1}}, start_ + absl::Milliseconds(1));
  came_ = {4, 5};
  EXPECT_EQ(asked_.NextAt(), due_ + absl::Milliseconds(1));
  came_ = {4, 5, 6};
  EXPECT_EQ(asked_.NextAt(), std::nullopt);
}

TEST_F(AskedPagesTest, OnlyWhatIsMissingIsAskedForAgain) {
  asked_.Add(std::array{PageRange{0, 4, 1}, PageRange{0, 5, 1}, PageRange{0, 6, 1}}, start_);
  came_ = {5};
  EXPECT_EQ(asked_.TakeOverdue(due_), (Units{{0, 4, 1}, {0, 6, 1}}));
}

}  // namespace
}  // namespace ferrite::migration
