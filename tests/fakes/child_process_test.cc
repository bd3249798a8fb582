#include "tests/fakes/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/fd.h"

namespace ferrite {
namespace {

ChildProcess Shell(const std::string& script, const ChildProcess::Options& options = {}) {
  auto child = ChildProcess::Start({"/bin/sh", "-c", script}, options);
  EXPECT_TRUE(child.ok()) << child.status();
  return *std::move(child);
}

std::string Contents(const Fd& file) {
  char text[256];
  const ssize_t size = pread(file.get(), text, sizeof(text), 0);
  return {text, static_cast<size_t>(size < 0 ? 0 : size)};
}

TEST(ChildProcessTest, EndIsACodeOrASignal) {
  const auto code = Shell("exit 3").Wait();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_TRUE(code->exited);
  EXPECT_EQ(code->number, 3);
  const auto signal = Shell("kill -9 $$").Wait();
  ASSERT_TRUE(signal.ok()) << signal.status();
  EXPECT_FALSE(signal->exited);
  EXPECT_EQ(signal->number, SIGKILL);
}

// By either way to start it.
TEST(ChildProcessTest, StandardDescriptorsAreThoseGivenOrNothing) {
  for (const bool copied : {false, true}) {
    const Fd out(memfd_create("out", MFD_CLOEXEC));
    const Fd err(memfd_create("err", MFD_CLOEXEC));
    ChildProcess::Options options = {.output = out.get(), .error = err.get()};
    if (copied) {
      options.in_child = [] { setenv("COPIED", "yes", 1); };
    }
    const auto end = Shell("read line; echo \"out $line $COPIED\"; echo err >&2", options).Wait();
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(Contents(out), copied ? "out  yes\n" : "out  \n");
    EXPECT_EQ(Contents(err), "err\n");
  }
}

TEST(ChildProcessTest, ProgramMayBeADescriptor) {
  const Fd program(open("/bin/sh", O_RDONLY | O_CLOEXEC));
  auto child = ChildProcess::Start({"shell", "-c", "exit 4"}, {.program = program.get()});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->Wait()->number, 4);
}

TEST(ChildProcessTest, ProgramThatIsNotThereIsAnError) {
  EXPECT_TRUE(absl::IsNotFound(ChildProcess::Start({"/nonexistent"}, {}).status()));
  auto copied = ChildProcess::Start({"/nonexistent"}, {.in_child = [] {}});
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_EQ(copied->Wait()->number, 127);
}

TEST(ChildProcessTest, RunsOnAfterADeadlineAndUntilItIsSignalled) {
  ChildProcess child = Shell("exec sleep 1000");
  EXPECT_TRUE(absl::IsDeadlineExceeded(child.Wait(absl::Milliseconds(1)).status()));
  EXPECT_FALSE(child.HasEnded());
  child.Signal(SIGTERM);
  const auto end = child.Wait();
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->number, SIGTERM);
  EXPECT_EQ(child.pid(), -1);
}

TEST(ChildProcessTest, GoesWithItsOwner) {
  pid_t pid = -1;
  {
    ChildProcess child = Shell("exec sleep 1000");
    const ChildProcess owner = std::move(child);
    EXPECT_EQ(child.pid(), -1);  // NOLINT(bugprone-use-after-move): that it is nobody's child
    pid = owner.pid();
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

}  // namespace
}  // namespace ferrite
