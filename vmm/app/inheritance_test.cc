#include "vmm/app/inheritance.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"

namespace ferrite {
namespace {

// Whether `check` holds in a process of its own, which has one thread.
bool HoldsInAChild(const std::function<bool()>& check) {
  const pid_t child = fork();
  if (child == 0) {
    _exit(check() ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST(CloseInheritedDescriptorsTest, OneMayStay) {
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int keep : {-1, 0, 3, 4, 20, 1000}) {
    EXPECT_TRUE(HoldsInAChild([&] {
      for (const int fd : {3, 4, 5, 20, 21, 1000}) {
        if (fd != null.get() && dup2(null.get(), fd) != fd) {
          return false;
        }
      }
      CloseInheritedDescriptors(keep);
      for (const int fd : {3, 4, 5, 20, 21, 1000}) {
        if (IsOpen(fd) != (fd == keep)) {
          return false;
        }
      }
      return IsOpen(0) && IsOpen(1) && IsOpen(2);
    })) << keep;
  }
}

// In a program of its own: what the kernel shows is what execve(2) put there.
TEST(CleanEnvironmentTest, NothingIsShownAndOnlyWhatIsNeededIsKept) {
  if (getenv("FERRITE_TEST_SECRET") == nullptr) {
    ASSERT_EQ(setenv("FERRITE_TEST_SECRET", "hunter2", 1), 0);
    ASSERT_EQ(setenv("XDG_RUNTIME_DIR", "/run/user/7", 1), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      execl("/proc/self/exe", "inheritance_test", "--gtest_filter=CleanEnvironmentTest.*", nullptr);
      _exit(127);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    return;
  }
  const auto shown = [] {
    std::stringstream text;
    text << std::ifstream("/proc/self/environ").rdbuf();
    return text.str();
  };
  ASSERT_TRUE(absl::StrContains(shown(), "hunter2"));
  CleanEnvironment();
  EXPECT_EQ(shown().find_first_not_of('\0'), std::string::npos);
  EXPECT_EQ(getenv("FERRITE_TEST_SECRET"), nullptr);
  EXPECT_EQ(getenv("PATH"), nullptr);
  ASSERT_NE(getenv("XDG_RUNTIME_DIR"), nullptr);
  EXPECT_EQ(std::string(getenv("XDG_RUNTIME_DIR")), "/run/user/7");
  // gtest still looks at some.
  EXPECT_EQ(setenv("XDG_RUNTIME_DIR", "/run/user/8", 1), 0);
}

}  // namespace
}  // namespace ferrite
