#include "base/thread_maker.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/thread.h"
#include "base/thread_class.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

// What urgent threads have: the same as others where this process may have no higher priority.
int UrgentNice() {
  int urgent = 0;
  Thread thread = StartOrDie("urgent", [&urgent] {
    (void)setpriority(PRIO_PROCESS, 0, OwnNice() - 10);
    urgent = OwnNice();
  });
  thread.Join();
  return urgent;
}

int NiceOf(ThreadMaker& maker, ThreadClass its_class) {
  int nice = 0;
  auto thread = maker.Start("classed", its_class, [&nice] { nice = OwnNice(); });
  EXPECT_TRUE(thread.ok()) << thread.status();
  thread->Join();
  return nice;
}

TEST(ThreadMakerTest, ClassesAreRelativeToWhoMadeTheMaker) {
  const int own = OwnNice();
  ThreadMaker maker;
  EXPECT_EQ(NiceOf(maker, ThreadClass::kInherited), own);
  EXPECT_EQ(NiceOf(maker, ThreadClass::kBulk), own);
  EXPECT_EQ(NiceOf(maker, ThreadClass::kUrgent), UrgentNice());
  EXPECT_EQ(OwnNice(), own) << "the caller's thread stays as it is";
}

TEST(ThreadMakerTest, ClassesAreTheSameForAnUrgentCaller) {
  const int own = OwnNice();
  const int urgent = UrgentNice();
  ThreadMaker maker;
  {
    const Urgency urgency;
    EXPECT_EQ(OwnNice(), urgent);
    EXPECT_EQ(NiceOf(maker, ThreadClass::kInherited), OwnNice());
    EXPECT_EQ(NiceOf(maker, ThreadClass::kBulk), own);
    EXPECT_EQ(NiceOf(maker, ThreadClass::kUrgent), OwnNice());
  }
  EXPECT_EQ(OwnNice(), own);
}

// No first asker decides for the whole process.
TEST(ThreadMakerTest, MakersOfThreadsThatDifferDoNotShareAnything) {
  const int own = OwnNice();
  ThreadMaker maker;
  EXPECT_EQ(NiceOf(maker, ThreadClass::kBulk), own);
  auto thread = maker.Start("lower", ThreadClass::kInherited, [own] {
    ASSERT_EQ(setpriority(PRIO_PROCESS, 0, own + 3), 0);
    ThreadMaker lower;
    EXPECT_EQ(NiceOf(lower, ThreadClass::kBulk), own + 3);
  });
  ASSERT_TRUE(thread.ok()) << thread.status();
}

}  // namespace
}  // namespace ferrite
