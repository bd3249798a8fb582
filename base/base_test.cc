#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/status.h"

namespace ferrite {
namespace {

TEST(FdTest, WritesWithoutWaitingForAReader) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const Fd pipe_read(pipe_ends[0]);
  const Fd pipe_write(pipe_ends[1]);
  int socket_ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socket_ends), 0);
  const Fd socket_read(socket_ends[0]);
  const Fd socket_write(socket_ends[1]);
  const Fd terminal(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_EQ(unlockpt(terminal.get()), 0);
  const Fd terminal_write(open(ptsname(terminal.get()), O_WRONLY | O_NOCTTY | O_CLOEXEC));
  const std::vector<uint8_t> bytes(1000, 'x');
  for (const Fd* fd : {&pipe_write, &socket_write, &terminal_write}) {
    ssize_t n = 0;
    do {
      n = WriteWithoutWaiting(fd->get(), bytes);
    } while (n > 0);
    EXPECT_EQ(n, -1);
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(fcntl(fd->get(), F_GETFL) & O_NONBLOCK, 0) << "others share these flags";
  }
  const Fd file(memfd_create("file", MFD_CLOEXEC));
  EXPECT_EQ(WriteWithoutWaiting(file.get(), bytes), 1000);
  EXPECT_EQ(WriteWithoutWaiting(file.get(), bytes), 1000);
  EXPECT_EQ(lseek(file.get(), 0, SEEK_CUR), 2000);
}

TEST(StatusTest, ErrnoBecomesCodeAndText) {
  const absl::Status status = ErrnoStatus(ENOENT, "open /no/such");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "open /no/such: No such file or directory");
  EXPECT_EQ(Annotate(status, "disk root").message(), "disk root: open /no/such: No such file or directory");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "disk").ok());
}

// A move takes these two for a lost connection, which is looked for again.
TEST(StatusTest, NoErrnoButAConnectionsSaysThatAConnectionIsLost) {
  for (int error = 1; error < 134; ++error) {
    const absl::Status status = ErrnoStatus(error, "write /a");
    EXPECT_FALSE(status.ok() || absl::IsUnavailable(status) || absl::IsOutOfRange(status)) << status;
    EXPECT_EQ(status.message(), ConnectStatus(error, "write /a").message());
  }
  EXPECT_TRUE(absl::IsUnavailable(ConnectStatus(ECONNREFUSED, "connect to /a")));
  EXPECT_TRUE(absl::IsNotFound(ConnectStatus(ENOENT, "connect to /a")));
  EXPECT_FALSE(ConnectStatus(0, "connect to /a").ok());
}

// A StatusOr that is made of an OK status ends the program.
TEST(StatusTest, ErrnoOfNoErrorIsAnErrorAllTheSame) {
  EXPECT_EQ(ErrnoStatus(0, "read /a").message(), "read /a: failed for no known reason");
  errno = 0;
  EXPECT_FALSE(ErrnoStatus("read /a").ok());
}

TEST(StatusTest, LimitsOfTheProcessAreNamedWithTheirRemedy) {
  EXPECT_EQ(ErrnoStatus(EMFILE, "open /a").message(),
            "open /a: Too many open files; raise the limit of open files (ulimit -n)");
  EXPECT_EQ(
      ErrnoStatus(EFBIG, "write /a").message(),
      "write /a: File too large; raise the limit of a file's size (ulimit -f), or use a file system that can hold "
      "it");
}

TEST(FdTest, MovesAndCloses) {
  int raw = -1;
  {
    auto fd = OpenFile("/dev/null", O_RDONLY);
    ASSERT_TRUE(fd.ok()) << fd.status();
    Fd moved = *std::move(fd);
    raw = moved.get();
    EXPECT_EQ(fcntl(raw, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_EQ(fcntl(raw, F_GETFD), -1);
  EXPECT_EQ(OpenFile("/no/such", O_RDONLY).status().message(), "open /no/such: No such file or directory");
}

TEST(EventFdTest, CountsSignals) {
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->Drain(), 0u);
  event->Signal();
  event->Signal();
  EXPECT_EQ(event->Drain(), 2u);
  EXPECT_EQ(event->Drain(), 0u);
}

TEST(MappingTest, IsAlignedAndUnmapped) {
  constexpr size_t kHuge = size_t{2} << 20;
  auto mapping = Mapping::Create("test", kHuge, MAP_PRIVATE, -1, 0, kHuge);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mapping->data()) % kHuge, 0u);
  mapping->data()[kHuge - 1] = 7;
  Mapping moved = *std::move(mapping);
  EXPECT_EQ(moved.data()[kHuge - 1], 7);
  EXPECT_FALSE(Mapping::Create("too much", size_t{1} << 60, MAP_PRIVATE).ok());
}

TEST(EventLoopTest, CallsBackUntilTheWatchIsGone) {
  auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  std::atomic<int> calls = 0;
  absl::Notification first;
  auto watch = (*loop)->WatchReadable(event->fd(), [&] {
    event->Drain();
    if (++calls == 1) {
      first.Notify();
    }
  });
  ASSERT_TRUE(watch.ok()) << watch.status();
  event->Signal();
  first.WaitForNotification();
  watch->reset();
  event->Signal();
  (*loop)->RunAndWait([] {});
  EXPECT_EQ(calls, 1);
}

TEST(EventLoopTest, ALackOfFilesIsToldWithItsRemedy) {
  const Fd next(dup(STDERR_FILENO));
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  int refusals = 0;
  absl::Status status = absl::UnknownError("not tried");
  // From a loop that gets no file to one that gets all it needs, for its watches too.
  for (rlim_t limit = next.get() + 1; !status.ok() && limit < static_cast<rlim_t>(next.get()) + 20; ++limit) {
    const rlimit lowered = {.rlim_cur = limit, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
    status = EventLoop::Create("test-loop").status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    if (!status.ok()) {
      ++refusals;
      EXPECT_NE(status.message().find("ulimit -n"), absl::string_view::npos) << status;
      EXPECT_NE(status.message().find("test-loop"), absl::string_view::npos) << status;
    }
  }
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GE(refusals, 1);
}

TEST(EventLoopTest, TimerRepeatsAndMayEndItself) {
  auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  absl::Notification third;
  int calls = 0;
  std::unique_ptr<EventLoop::Watch> watch;
  (*loop)->RunAndWait([&] {
    watch = (*loop)->WatchTimer(absl::Milliseconds(1), [&] {
      if (++calls == 3) {
        watch.reset();
        third.Notify();
      }
    });
  });
  third.WaitForNotification();
  (*loop)->RunAndWait([] {});
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace ferrite
