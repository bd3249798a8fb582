#include "base/patient_memory.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <new>

#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr size_t kPiece = size_t{3} << 20;

// While it lives, this process gets no more addresses.
class NoMemory {
 public:
  NoMemory() {
    EXPECT_EQ(getrlimit(RLIMIT_AS, &before_), 0);
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit now = {.rlim_cur = pages * static_cast<rlim_t>(getpagesize()), .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_AS, &now), 0);
  }
  ~NoMemory() { EXPECT_EQ(setrlimit(RLIMIT_AS, &before_), 0); }

 private:
  rlimit before_ = {};
};

// As large as it is, it comes from the kernel and goes back to it.
void* Allocate() { return ::operator new(kPiece); }

TEST(PatientMemoryTest, IsGivenBackThenWaitsUntilThereIsSome) {
  // An arena of the thread's own would have addresses in reserve, which are no new ones.
  ASSERT_EQ(mallopt(M_ARENA_MAX, 1), 1);
  const auto spent = EventFd::Create();
  ASSERT_TRUE(spent.ok());
  TimedNotification keeps_some;
  TimedNotification has_none;
  TimedNotification goes_on;
  TimedNotification has_some;
  Thread thread = StartOrDie("patient", [&] {
    PatientMemory memory(*spent);
    keeps_some.Notify();
    has_none.WaitFor(absl::InfiniteDuration());
    void* const first = Allocate();
    goes_on.Notify();
    void* const second = Allocate();
    has_some.Notify();
    EXPECT_TRUE(memory.Refill());
    ::operator delete(first);
    ::operator delete(second);
  });
  ASSERT_TRUE(keeps_some.WaitFor(absl::Seconds(30)));
  bool fails_here = false;
  bool went_on = false;
  bool had_some = true;
  {
    const NoMemory none;
    try {
      ::operator delete(Allocate());
    } catch (const std::bad_alloc&) {
      fails_here = true;
    }
    has_none.Notify();
    went_on = goes_on.WaitFor(absl::Seconds(30));
    had_some = has_some.WaitFor(absl::Milliseconds(50));
  }
  EXPECT_TRUE(fails_here);
  EXPECT_TRUE(went_on);
  EXPECT_FALSE(had_some);
  EXPECT_TRUE(has_some.WaitFor(absl::Seconds(30)));
  EXPECT_EQ(spent->Drain(), 1u);
  thread.Join();
}

}  // namespace
}  // namespace ferrite
