#include "migration/sending/mirror_backoff.h"

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite::migration {
namespace {

TEST(MirrorBackoffTest, ActsByPolicyAndError) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  const absl::Status bad = absl::DataLossError("bad");
  const struct {
    ErrorPolicy policy;
    ErrorAction of_full, of_bad;
  } cases[] = {
      {ErrorPolicy::kReport, ErrorAction::kFail, ErrorAction::kFail},
      {ErrorPolicy::kIgnore, ErrorAction::kWait, ErrorAction::kWait},
      {ErrorPolicy::kStop, ErrorAction::kStop, ErrorAction::kStop},
      {ErrorPolicy::kEnospc, ErrorAction::kStop, ErrorAction::kFail},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(ActionFor(one.policy, full), one.of_full) << ErrorPolicyName(one.policy);
    EXPECT_EQ(ActionFor(one.policy, bad), one.of_bad) << ErrorPolicyName(one.policy);
  }
}

TEST(MirrorBackoffTest, DoublesUpToTenSeconds) {
  MirrorBackoff backoff;
  MonotonicTime now = MonotonicTime() + absl::Hours(1);
  EXPECT_LT(backoff.retry_at(), now);
  for (const int ms : {100, 200, 400, 800, 1600, 3200, 6400, 10'000, 10'000}) {
    backoff.Failed(now);
    EXPECT_EQ(backoff.retry_at() - now, absl::Milliseconds(ms));
    // What was in flight with it.
    backoff.Failed(now + absl::Milliseconds(10));
    EXPECT_EQ(backoff.retry_at() - now, absl::Milliseconds(ms));
    now = backoff.retry_at();
  }
  backoff.Succeeded();
  backoff.Failed(now);
  EXPECT_EQ(backoff.retry_at() - now, absl::Milliseconds(100));
}

}  // namespace
}  // namespace ferrite::migration
