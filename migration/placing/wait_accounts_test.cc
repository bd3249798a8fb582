#include "migration/placing/wait_accounts.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite::migration {
namespace {

constexpr pid_t kVcpu = 11;
constexpr pid_t kOther = 12;
constexpr pid_t kThird = 13;

class WaitAccountsTest : public testing::Test {
 protected:
  const WaitingFigures* Of(uint32_t vcpu) {
    figures_ = accounts_.Figures();
    for (const WaitingFigures& one : figures_) {
      if (one.vcpu == vcpu) {
        return &one;
      }
    }
    return nullptr;
  }

  const MonotonicTime start_ = MonotonicTime::Now();
  std::vector<WaitingFigures> figures_;
  bool here_ = true;
  WaitAccounts accounts_{[](pid_t thread) { return thread == kVcpu ? std::optional<uint32_t>(3) : std::nullopt; },
                         [this](size_t, uint64_t) { return here_; }};
};

TEST_F(WaitAccountsTest, NobodyWaitedAtFirst) {
  accounts_.End(0, 0, 100, start_);
  EXPECT_TRUE(accounts_.Figures().empty());
}

TEST_F(WaitAccountsTest, WaitEndsWithItsPageAlone) {
  accounts_.Begin(kVcpu, 0, 5, start_);
  accounts_.End(1, 5, 1, start_ + absl::Milliseconds(1));  // another region
  accounts_.End(0, 4, 1, start_ + absl::Milliseconds(1));  // before it
  accounts_.End(0, 6, 9, start_ + absl::Milliseconds(1));  // after it
  EXPECT_EQ(Of(3), nullptr);
  accounts_.End(0, 2, 4, start_ + absl::Milliseconds(8));  // 2 to 5
  ASSERT_NE(Of(3), nullptr);
  EXPECT_EQ(Of(3)->count, 1u);
  EXPECT_EQ(Of(3)->max, absl::Milliseconds(8));
  EXPECT_EQ(Of(3)->sum, absl::Milliseconds(8));
  // It is counted once.
  accounts_.End(0, 2, 4, start_ + absl::Milliseconds(9));
  EXPECT_EQ(Of(3)->count, 1u);
}

// It has come, and is gathered with the others of its block.
TEST_F(WaitAccountsTest, WaitGoesOnUntilThePageIsShown) {
  accounts_.Begin(kVcpu, 0, 5, start_);
  here_ = false;
  accounts_.End(0, 0, 32, start_ + absl::Milliseconds(1));
  EXPECT_EQ(Of(3), nullptr);
  here_ = true;
  accounts_.End(0, 5, 1, start_ + absl::Milliseconds(4));
  ASSERT_NE(Of(3), nullptr);
  EXPECT_EQ(Of(3)->max, absl::Milliseconds(4));
}

TEST_F(WaitAccountsTest, ThreadsThatAreNoVcpusAreOne) {
  accounts_.Begin(kVcpu, 0, 5, start_);
  accounts_.Begin(kOther, 0, 5, start_);
  accounts_.Begin(kThird, 0, 6, start_ + absl::Milliseconds(2));
  accounts_.End(0, 5, 2, start_ + absl::Milliseconds(4));
  ASSERT_NE(Of(3), nullptr);
  EXPECT_EQ(Of(3)->count, 1u);
  ASSERT_NE(Of(WaitingFigures::kMonitor), nullptr);
  EXPECT_EQ(Of(WaitingFigures::kMonitor)->count, 2u);
  EXPECT_EQ(Of(WaitingFigures::kMonitor)->sum, absl::Milliseconds(6));
}

// A fault may be taken twice: the page went again, or somebody else was woken.
TEST_F(WaitAccountsTest, LaterWaitOfAThreadReplacesItsEarlierOne) {
  accounts_.Begin(kVcpu, 0, 5, start_);
  accounts_.Begin(kVcpu, 0, 9, start_ + absl::Milliseconds(10));
  accounts_.End(0, 5, 1, start_ + absl::Milliseconds(11));
  EXPECT_EQ(Of(3), nullptr);
  accounts_.End(0, 9, 1, start_ + absl::Milliseconds(13));
  ASSERT_NE(Of(3), nullptr);
  EXPECT_EQ(Of(3)->sum, absl::Milliseconds(3));
}

// A frame that comes costs no look at those who wait for others: with one this would take minutes.
TEST_F(WaitAccountsTest, ArrivalsLookAtTheirOwnPagesAlone) {
  constexpr pid_t kThreads = 100'000;
  for (pid_t thread = 0; thread < kThreads; ++thread) {
    accounts_.Begin(thread, 1, static_cast<uint64_t>(thread), start_);
  }
  for (uint64_t page = 0; page < kThreads; ++page) {
    accounts_.End(0, page, 1, start_ + absl::Milliseconds(1));
    accounts_.End(1, kThreads + page, 1, start_ + absl::Milliseconds(1));
  }
  accounts_.End(1, 0, kThreads, start_ + absl::Milliseconds(1));
  ASSERT_NE(Of(WaitingFigures::kMonitor), nullptr);
  EXPECT_EQ(Of(WaitingFigures::kMonitor)->count, uint64_t{kThreads} - 1);
}

}  // namespace
}  // namespace ferrite::migration
