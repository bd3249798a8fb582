#include "migration/session/drop_log.h"

#include <gtest/gtest.h>

#include "vmm/base/monotonic.h"

namespace ferrite::migration {
namespace {

TEST(DropLogTest, ManyAreCountedInFewLines) {
  DropLog log;
  MonotonicTime now = MonotonicTime();
  int lines = 0;
  for (int i = 0; i < 1000; ++i) {
    lines += log.Take(now).has_value() ? 1 : 0;
  }
  EXPECT_EQ(lines, DropLog::kMost);
  now += DropLog::kPause;
  EXPECT_EQ(log.Take(now), 1000 - DropLog::kMost);
  EXPECT_FALSE(log.Take(now).has_value());
  now += DropLog::kPause;
  EXPECT_EQ(log.Take(now), 1u);
}

}  // namespace
}  // namespace ferrite::migration
