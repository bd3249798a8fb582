#include "vmm/app/stop_signals.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

// A process of its own, which runs `body` and ends with what that returns.
class Child {
 public:
  // `body` has the write end of a pipe whose other end is ready().
  explicit Child(const std::function<int(int)>& body) {
    int ends[2];
    FERRITE_CHECK(pipe(ends) == 0);
    pid_ = fork();
    FERRITE_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      close(ends[0]);
      _exit(body(ends[1]));
    }
    ready_ = Fd(ends[0]);
    close(ends[1]);
  }
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }

  void Signal(int signal) const { FERRITE_CHECK(kill(pid_, signal) == 0); }
  // Until `body` has written a byte.
  void WaitUntilReady() const {
    char byte = 0;
    ASSERT_EQ(read(ready_.get(), &byte, 1), 1);
  }
  // Until the signal has its ordinary effect.
  void WaitUntilTaken(int signal) const {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while ((Caught() >> (signal - 1) & 1) != 0) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
      std::this_thread::yield();
    }
  }
  // As wait(2) has it; -1 when it still lives.
  int Wait() {
    const Fd ended(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    pollfd polled = {ended.get(), POLLIN, 0};
    int status = -1;
    if (poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1) {
      FERRITE_CHECK(waitpid(pid_, &status, 0) == pid_);
      pid_ = -1;
    }
    return status;
  }

 private:
  uint64_t Caught() const {
    std::ifstream status(absl::StrCat("/proc/", pid_, "/status"));
    for (std::string line; std::getline(status, line);) {
      if (absl::StartsWith(line, "SigCgt:")) {
        return std::stoull(line.substr(7), nullptr, 16);
      }
    }
    return 0;
  }

  pid_t pid_ = -1;
  Fd ready_;
};

// Waits for what never comes.
void OpenFifoThatNobodyWrites(int ready) {
  const std::string path = absl::StrCat(testing::TempDir(), "/fifo-", getpid());
  FERRITE_CHECK(mkfifo(path.c_str(), 0600) == 0);
  (void)!write(ready, "x", 1);
  (void)open(path.c_str(), O_RDONLY);
}

TEST(StopSignalsTest, TheSecondEndsAProcessThatIsStuck) {
  for (const int second : {SIGTERM, SIGINT, SIGHUP}) {
    Child child([](int ready) {
      const auto signals = StopSignals::Create();
      OpenFifoThatNobodyWrites(ready);
      return 1;
    });
    child.WaitUntilReady();
    child.Signal(SIGTERM);
    child.WaitUntilTaken(second);
    child.Signal(second);
    const int status = child.Wait();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == second) << status;
  }
}

TEST(StopSignalsTest, TheFirstIsReadAndInterruptsNoRead) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Child child([&](int ready) {
    auto signals = StopSignals::Create();
    pollfd polled = {signals->fd(), POLLIN, 0};
    if (poll(&polled, 1, 0) != 0) {
      return 1;
    }
    (void)!write(ready, "x", 1);
    char byte = 0;
    if (read(ends[0], &byte, 1) != 1) {
      return 2;
    }
    if (poll(&polled, 1, 0) != 1) {
      return 3;
    }
    return signals->Take() == "SIGINT" ? 0 : 4;
  });
  child.WaitUntilReady();
  child.Signal(SIGINT);
  child.WaitUntilTaken(SIGINT);
  ASSERT_EQ(write(ends[1], "x", 1), 1);
  EXPECT_EQ(child.Wait(), 0);
}

TEST(StopSignalsTest, ThoseThatAreIgnoredStaySo) {
  Child child([](int) {
    (void)signal(SIGHUP, SIG_IGN);
    auto signals = StopSignals::Create();
    (void)raise(SIGHUP);
    signals->LetThrough();
    (void)raise(SIGHUP);
    pollfd polled = {signals->fd(), POLLIN, 0};
    return poll(&polled, 1, 0);
  });
  EXPECT_EQ(child.Wait(), 0);
}

TEST(StopSignalsTest, ThoseThatWereBlockedAreTaken) {
  Child child([](int) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    auto signals = StopSignals::Create();
    (void)raise(SIGTERM);
    return signals->Take() == "SIGTERM" ? 0 : 1;
  });
  EXPECT_EQ(child.Wait(), 0);
}

TEST(StopSignalsTest, LetThroughTheFirstEndsTheProcess) {
  Child child([](int) {
    auto signals = StopSignals::Create();
    signals->LetThrough();
    (void)raise(SIGTERM);
    return 0;
  });
  const int status = child.Wait();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
}

}  // namespace
}  // namespace ferrite
