#include "base/lock_limit.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "absl/strings/match.h"

namespace ferrite {
namespace {

TEST(LockLimitTest, IsTheSoftOneOfThisProcess) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &before), 0);
  rlimit lower = before;
  lower.rlim_cur = 64 << 10;
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &lower), 0);
  EXPECT_EQ(ReadLockLimit().bytes, uint64_t{64} << 10);
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &before), 0);
  EXPECT_EQ(ReadLockLimit().bytes, before.rlim_cur == RLIM_INFINITY ? LockLimit::kNone : before.rlim_cur);
}

TEST(LockLimitTest, SaysWhatIsNeededAndHowToGetIt) {
  const LockLimit limit{.bytes = 8 << 20};
  EXPECT_TRUE(CheckLockLimit(limit, "this", 8 << 20).ok());
  const absl::Status status = CheckLockLimit(limit, "a move over RDMA", (8 << 20) + 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  for (const char* part : {"a move over RDMA needs 8 MiB", "may lock 8 MiB", "ulimit -l", "CAP_IPC_LOCK"}) {
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status;
  }
  EXPECT_TRUE(CheckLockLimit({.bytes = 1, .may_pass = true}, "this", 2).ok());
  EXPECT_TRUE(CheckLockLimit({}, "this", LockLimit::kNone).ok());
}

}  // namespace
}  // namespace ferrite
