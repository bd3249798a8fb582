#include "base/poll.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/fd.h"

namespace ferrite {
namespace {

TEST(PollTest, SaysWhatIsReady) {
  const auto first = EventFd::Create();
  const auto second = EventFd::Create();
  ASSERT_TRUE(first.ok() && second.ok());
  pollfd polled[] = {{first->fd(), POLLIN, 0}, {second->fd(), POLLIN, 0}};
  EXPECT_EQ(PollFor(polled, absl::ZeroDuration()), 0);
  second->Signal();
  EXPECT_EQ(PollFor(polled, absl::InfiniteDuration()), 1);
  EXPECT_EQ(polled[0].revents, 0);
  EXPECT_EQ(polled[1].revents, POLLIN);
}

// prlimit(1) lowers it of a process that has more open already.
TEST(PollTest, FirstIsSeenWhereFewerFilesMayBeOpen) {
  const auto first = EventFd::Create();
  const auto second = EventFd::Create();
  ASSERT_TRUE(first.ok() && second.ok());
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit lowered = {.rlim_cur = 1, .rlim_max = before.rlim_max};
  pollfd polled[] = {{first->fd(), POLLIN, 0}, {second->fd(), POLLIN, 0}};
  second->Signal();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  const int nothing = PollFor(polled, absl::InfiniteDuration());
  first->Signal();
  const int seen = PollFor(polled, absl::InfiniteDuration());
  const short said = polled[0].revents;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(nothing, 0);
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(said, POLLIN);
  EXPECT_EQ(PollFor(polled, absl::InfiniteDuration()), 2);
}

}  // namespace
}  // namespace ferrite
