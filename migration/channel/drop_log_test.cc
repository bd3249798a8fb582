#include "migration/channel/drop_log.h"

#include <gtest/gtest.h>

#include "base/monotonic.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

TEST(DropLogTest, ManyAreCountedInFewLines) {
  const TestHost host;
  DropLog log(host.get());
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

TEST(DropLogTest, WordsAreCleanAndOneLine) {
  const TestHost host;
  DropLog log(host.get());
  log.Log("tcp:192.0.2.7:1", "\x1b[2J\nferrite: all is well");
  log.LogRefusal("tcp:192.0.2.7:2", "disk \x1b[2J");
  log.Tell("disk root: \x1b[2J");
  EXPECT_EQ(host.log().text(),
            "receive: dropped a connection from tcp:192.0.2.7:1: ?[2J?ferrite: all is well\n"
            "receive: waits on, having refused the machine from tcp:192.0.2.7:2: disk ?[2J\n"
            "receive: disk root: ?[2J\n");
}

}  // namespace
}  // namespace ferrite::migration
