#include "base/thread.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <csignal>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "base/event_loop.h"
#include "tests/fakes/scarcity.h"

namespace ferrite {
namespace {

TEST(ThreadTest, HasItsName) {
  std::string name(16, '\0');
  auto thread =
      Thread::Start("a-name-that-is-too-long", [&] { pthread_getname_np(pthread_self(), name.data(), name.size()); });
  ASSERT_TRUE(thread.ok()) << thread.status();
  thread->Join();
  EXPECT_STREQ(name.c_str(), "a-name-that-is-");
  EXPECT_FALSE(thread->joinable());
}

TEST(ThreadTest, SignalsOfTheProcessAreBlockedAndThoseOfAFaultAreNot) {
  sigset_t blocked;
  Thread thread = StartOrDie("masked", [&] { pthread_sigmask(SIG_SETMASK, nullptr, &blocked); });
  thread.Join();
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
  EXPECT_EQ(sigismember(&blocked, SIGBUS), 0);
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  EXPECT_EQ(sigismember(&own, SIGTERM), 0);
}

TEST(ThreadTest, OneThatCannotBeMadeIsNamedAndNothingIsChanged) {
  bool ran = false;
  Scarcity scarcity(Scarce::kThreads, 1);
  const auto thread = Thread::Start("worker", [&] { ran = true; });
  EXPECT_EQ(thread.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::StartsWith(thread.status().message(), "make the thread worker: Resource temporarily unavailable"))
      << thread.status();
  EXPECT_TRUE(absl::StrContains(thread.status().message(), "pids.max")) << thread.status();
  EXPECT_FALSE(ran);
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  EXPECT_EQ(sigismember(&own, SIGTERM), 0);
}

TEST(ThreadTest, AssignmentJoinsTheOneBefore) {
  bool ran = false;
  Thread thread = StartOrDie("first", [&] { ran = true; });
  thread = Thread();
  EXPECT_TRUE(ran);
}

TEST(EventLoopTest, LackOfItsThreadIsToldWithItsName) {
  const Scarcity scarcity(Scarce::kThreads, 1);
  const auto loop = EventLoop::Create("devices");
  EXPECT_EQ(loop.status().message().find("make the event loop devices: make the thread devices: "), 0u)
      << loop.status();
}

}  // namespace
}  // namespace ferrite
