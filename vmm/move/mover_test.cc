#include "vmm/move/mover.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/pinned_file.h"
#include "base/timed_mutex.h"
#include "migration/channel/socket/socket.h"
#include "migration/session/destination.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/fake_machine.h"
#include "tests/fakes/fake_movable_machine.h"
#include "tests/fakes/scarcity.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"
#include "vmm/move/boot_files.h"

namespace ferrite {
namespace {

// A signal that asks for the end waits for one move at the most: clients begin no other meanwhile.
TEST(MoverTest, NoMoveBeginsAtTheEnd) {
  FakeMovableMachine moving;
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20}, &moving);
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine, *std::move(directory), "", nullptr);
  mover.BeginEnd();
  EXPECT_EQ(mover.Start("unix:/nowhere", {}, {}), absl::UnavailableError("this machine is ending"));
  EXPECT_EQ(mover.status().number, 0u);
  mover.Wait();
}

TEST(MoverTest, BalloonMayBeSetWhileNothingIsLostByIt) {
  FakeMovableMachine moving;
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20}, &moving);
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine, *std::move(directory), "", nullptr);
  EXPECT_TRUE(mover.Allows(Operation::kSetBalloon, /*force=*/false).ok());
  ASSERT_TRUE(mover.Start("unix:/nowhere", {}, {}).ok());
  EXPECT_TRUE(mover.Allows(Operation::kSetBalloon, /*force=*/false).ok()) << "the target goes with the machine";
  mover.Wait();
  EXPECT_TRUE(mover.Allows(Operation::kSetBalloon, /*force=*/false).ok());
}

// A disk that is copied with its machine is not copied elsewhere at the same time: both follow its writes.
TEST(MoverTest, NoMirrorBeginsWhileTheMachineMoves) {
  FakeMovableMachine moving;
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20}, &moving);
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  // The move is on until who listens was told of its end.
  TimedNotification go_on;
  Mover mover(machine, *std::move(directory), "",
              [&](const MoveStatus&) { EXPECT_TRUE(go_on.WaitFor(absl::Minutes(1))); });
  EXPECT_EQ(mover.Allows(Operation::kMirror, /*force=*/false), absl::OkStatus());
  ASSERT_EQ(mover.Start("unix:/nowhere", {.connect_limit = absl::Milliseconds(1)}, {}), absl::OkStatus());
  for (const bool force : {false, true}) {
    EXPECT_EQ(mover.Allows(Operation::kMirror, force),
              absl::FailedPreconditionError("cannot mirror a disk: the machine is moving to unix:/nowhere; `ferrite "
                                            "move NAME --cancel` ends that"));
  }
  go_on.Notify();
  mover.Wait();
  EXPECT_EQ(mover.Allows(Operation::kMirror, /*force=*/false), absl::OkStatus());
}

// R3: who listens may be as slow as they like. They hear of each change nevertheless, in its order, and at last once
// that the move is over.
TEST(MoverTest, ListenerThatBlocksDoesNotHoldTheMoveUp) {
  std::string socket_directory = "/tmp/ferrite-mover-XXXXXX";
  ASSERT_NE(mkdtemp(socket_directory.data()), nullptr);
  const absl::Cleanup remove_directory = [&] { rmdir(socket_directory.c_str()); };
  auto socket = migration::Listener::Create(
      {.kind = migration::Address::Kind::kUnix, .path = absl::StrCat(socket_directory, "/s")});
  ASSERT_TRUE(socket.ok()) << socket.status();
  const std::string where = (*socket)->address().ToString();
  const auto acceptor = migration::AcceptorOf(*std::move(socket));
  TimedNotification asked;
  FakeDestination there(MemoryBacking::kMemfd);
  there.on_build = [&] {
    asked.Notify();
    return absl::FailedPreconditionError("no room here");
  };
  auto session = migration::Destination::Create(migration::AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok()) << session.status();
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(*acceptor); });

  FakeMovableMachine moving;
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20}, &moving);
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  TimedNotification listening;
  TimedNotification go_on;
  std::vector<MoveStatus> heard;  // of the thread that tells, and behind Wait() of the test
  {
    Mover mover(machine, *std::move(directory), "", [&](const MoveStatus& status) {
      listening.Notify();
      EXPECT_TRUE(go_on.WaitFor(absl::Minutes(1)));
      heard.push_back(status);
    });
    ASSERT_EQ(mover.Start(where, {.patience = absl::Hours(1)}, {}), absl::OkStatus());
    EXPECT_TRUE(listening.WaitFor(absl::Seconds(30)));
    EXPECT_TRUE(asked.WaitFor(absl::Seconds(30))) << "the move waits for its listener";
    for (const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(30);
         !mover.status().over && MonotonicTime::Now() < deadline;) {
      sched_yield();
    }
    EXPECT_TRUE(mover.status().over) << "the move waits for its listener";
    go_on.Notify();
    mover.Wait();
    EXPECT_EQ(mover.status().guest, GuestPlace::kHereRunning);
  }
  std::vector<std::string> states;
  for (const MoveStatus& status : heard) {
    EXPECT_EQ(status.number, 1u);
    EXPECT_EQ(status.where, where);
    EXPECT_EQ(status.over, &status == &heard.back());
    std::string state(migration::MoveStateName(status.progress.state));
    if (states.empty() || states.back() != state) {
      states.push_back(std::move(state));
    }
  }
  EXPECT_EQ(absl::StrJoin(states, " "), "setup failed");
  ASSERT_FALSE(heard.empty());
  EXPECT_TRUE(absl::StrContains(heard.back().result.message(), "no room here")) << heard.back().result;
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// A kernel may be somebody else's, and large: here it is mostly a hole, which takes as long to read.
TEST(MoverTest, CancelEndsTheReadingOfAKernel) {
  const std::string directory_name = testing::TempDir();
  const std::string kernel = absl::StrCat(directory_name, "/kernel");
  const absl::Cleanup remove = [&] { unlink(kernel.c_str()); };
  constexpr uint64_t kShort = uint64_t{128} << 20;
  constexpr uint64_t kLong = uint64_t{4} << 30;
  ASSERT_TRUE(OpenFile(kernel, O_RDWR | O_CREAT, 0600).ok());
  auto file = PinnedFile::Find(kernel, PinnedFile::Links::kAll);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto boot = std::make_shared<const BootFile>(BootFile{.file = *std::move(file), .content = std::nullopt});
  // How long a part of it takes here.
  ASSERT_EQ(truncate(kernel.c_str(), kShort), 0);
  const MonotonicTime before = MonotonicTime::Now();
  capnp::MallocMessageBuilder message;
  DescribeBootFile(*boot, /*ended=*/false, message.initRoot<state::BootFile>());
  const absl::Duration all = (MonotonicTime::Now() - before) * (2 * kLong / kShort);
  ASSERT_EQ(truncate(kernel.c_str(), kLong), 0);
  const Fd opened(inotify_init1(IN_CLOEXEC));
  ASSERT_GE(inotify_add_watch(opened.get(), kernel.c_str(), IN_OPEN), 0);

  std::string socket_directory = "/tmp/ferrite-mover-XXXXXX";
  ASSERT_NE(mkdtemp(socket_directory.data()), nullptr);
  const absl::Cleanup remove_directory = [&] { rmdir(socket_directory.c_str()); };
  auto listener = migration::Listener::Create(
      {.kind = migration::Address::Kind::kUnix, .path = absl::StrCat(socket_directory, "/s")});
  ASSERT_TRUE(listener.ok()) << listener.status();
  const std::string where = (*listener)->address().ToString();
  const auto acceptor = migration::AcceptorOf(*std::move(listener));
  FakeDestination there(MemoryBacking::kMemfd);
  // Of a source whose machine it has accepted it would wait for no other.
  there.on_build = [] { return absl::FailedPreconditionError("no room here"); };
  auto session = migration::Destination::Create(migration::AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok()) << session.status();
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(*acceptor); });

  FakeMovableMachine moving;
  FakeMachine machine({.name = "vm",
                       .memory_bytes = 1 << 20,
                       .kernel_path = kernel,
                       .initrd_path = kernel,
                       .kernel = boot,
                       .initrd = boot},
                      &moving);
  auto directory = OpenFile(directory_name, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine, *std::move(directory), "", nullptr);
  ASSERT_EQ(mover.Start(where, {.patience = absl::Hours(1)}, {}), absl::OkStatus());
  pollfd polled = {opened.get(), POLLIN, 0};
  ASSERT_EQ(poll(&polled, 1, 30'000), 1) << "it is not read: what is this test about?";
  const MonotonicTime start = MonotonicTime::Now();
  EXPECT_EQ(mover.Cancel(), absl::OkStatus());
  mover.Wait();
  EXPECT_LT(MonotonicTime::Now() - start, all / 4);
  EXPECT_TRUE(absl::IsCancelled(mover.status().result)) << mover.status().result;
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R3: the mover can move again, and whatever else is refused while a move is on is not.
TEST(MoverTest, MoveWhoseThreadCannotBeMadeChangesNothing) {
  FakeMovableMachine moving;
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20}, &moving);
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  std::vector<MoveStatus> heard;
  Mover mover(machine, *std::move(directory), "", [&](const MoveStatus& status) { heard.push_back(status); });
  {
    const Scarcity scarcity(Scarce::kThreads, 1);
    const absl::Status status = mover.Start("unix:/nowhere", {}, {});
    EXPECT_TRUE(absl::StartsWith(status.message(), "cannot move: make the thread move: ")) << status;
  }
  EXPECT_EQ(mover.status().number, 0u);
  EXPECT_TRUE(mover.Allows(Operation::kPause, /*force=*/false).ok());
  EXPECT_FALSE(mover.MustWait());
  mover.Wait();
  EXPECT_TRUE(heard.empty());
  // Without the thread that tells of its progress it goes on, and all of it is told at its end.
  const Scarcity scarcity(Scarce::kThreads, 2);
  EXPECT_TRUE(mover.Start("unix:/nowhere", {.connect_limit = absl::Milliseconds(1)}, {}).ok());
  mover.Wait();
  EXPECT_EQ(scarcity.refused(), 1u);
  EXPECT_EQ(mover.status().number, 1u);
  EXPECT_TRUE(mover.status().over);
  EXPECT_EQ(mover.status().guest, GuestPlace::kHereRunning);
  ASSERT_GE(heard.size(), 2u);
  EXPECT_EQ(heard.front().progress.state, migration::MoveState::kSetup);
  EXPECT_TRUE(heard.back().over);
}

}  // namespace
}  // namespace ferrite
