#include "migration/channel/socket/socket.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "tests/fakes/accepting.h"
#include "tests/fakes/silent_place.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

TEST(SocketTest, UnixSocketIsItsOwnersAlone) {
  char directory[] = "/tmp/ferrite-socket-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  const std::string path = absl::StrCat(directory, "/s");
  {
    const auto listener = Listener::Create({.kind = Address::Kind::kUnix, .path = path});
    ASSERT_TRUE(listener.ok()) << listener.status();
    struct stat info = {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
  }
  EXPECT_EQ(rmdir(directory), 0);
}

TEST(SocketTest, ConnectsListensAndCancels) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  char directory[] = "/tmp/ferrite-socket-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  for (const std::string& text : {std::string("tcp:127.0.0.1:0"), absl::StrCat("unix:", directory, "/s")}) {
    auto listener = Listener::Create(*ParseAddress(text));
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_NE((*listener)->address().ToString(), "tcp:127.0.0.1:0");
    auto client = Connect((*listener)->address(), absl::Seconds(5), *cancel);
    ASSERT_TRUE(client.ok()) << client.status();
    auto server = Accept(**listener, *cancel);
    ASSERT_TRUE(server.ok()) << server.status();
    const uint8_t byte = 42;
    ASSERT_TRUE((*client)->WriteAll({&byte, 1}).ok());
    uint8_t got = 0;
    ASSERT_TRUE((*server)->ReadAll({&got, 1}).ok());
    EXPECT_EQ(got, 42);
  }
  // Only while somebody listens.
  EXPECT_FALSE(Connect(*ParseAddress(absl::StrCat("unix:", directory, "/s")), absl::Seconds(5), *cancel).ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok());
  cancel->Signal();
  EXPECT_EQ(Accept(**listener, *cancel).status().code(), absl::StatusCode::kCancelled);
  rmdir(directory);
}

// A cable is pulled: nothing of what one side sends arrives there, and no word of that comes back (R4).
TEST(SocketTest, HalfOpenConnectionIsNoticedByWhoWaitsForTheOther) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  for (const bool writes : {true, false}) {
    SCOPED_TRACE(writes ? "what was sent is not acknowledged" : "nothing is sent");
    auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
    ASSERT_TRUE(listener.ok()) << listener.status();
    auto client = Connect((*listener)->address(), absl::Seconds(5), *cancel);
    ASSERT_TRUE(client.ok()) << client.status();
    auto server = Accept(**listener, *cancel);
    ASSERT_TRUE(server.ok()) << server.status();
    // The kernel drops each segment before TCP sees it.
    sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    const sock_fprog program = {.len = 1, .filter = &drop};
    ASSERT_EQ(setsockopt((*server)->fd(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0)
        << strerror(errno);
    (*client)->SetPatience(absl::Seconds(3));
    if (writes) {
      const uint8_t byte = 42;
      ASSERT_TRUE((*client)->WriteAll({&byte, 1}).ok()) << "it waits in the kernel";
    }
    uint8_t got = 0;
    const absl::Status read = (*client)->ReadAll({&got, 1});
    EXPECT_EQ(read.code(), absl::StatusCode::kUnavailable) << read;
    EXPECT_TRUE(absl::StrContains(read.message(), "timed out")) << read;
  }
}

TEST(ConnectToAnyTest, SilentPlacesDoNotUseUpTheTime) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const SilentPlace silent;
  const std::vector<Endpoint> places = {silent.endpoint(), silent.endpoint(), PlaceOf(**listener)};
  // The kernel itself would try a silent place for two minutes.
  auto client = ConnectToAny(places, "name", absl::Hours(1), *cancel);
  ASSERT_TRUE(client.ok()) << client.status();
  auto server = Accept(**listener, *cancel);
  ASSERT_TRUE(server.ok()) << server.status();
  const uint8_t byte = 42;
  ASSERT_TRUE((*client)->WriteAll({&byte, 1}).ok());
  uint8_t got = 0;
  ASSERT_TRUE((*server)->ReadAll({&got, 1}).ok());
  EXPECT_EQ(got, 42);
  // However little time there is, each gets a part of it.
  EXPECT_TRUE(ConnectToAny(places, "name", absl::Milliseconds(200), *cancel).ok());
}

TEST(ConnectToAnyTest, SaysOfEachPlaceWhyItFailed) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  const SilentPlace silent;
  Endpoint refuses;
  {
    auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
    ASSERT_TRUE(listener.ok()) << listener.status();
    refuses = PlaceOf(**listener);
  }
  const auto all =
      ConnectToAny(std::vector<Endpoint>{silent.endpoint(), refuses}, "name", absl::Milliseconds(50), *cancel);
  EXPECT_EQ(all.status().code(), absl::StatusCode::kDeadlineExceeded) << all.status();
  EXPECT_TRUE(absl::StrContains(all.status().message(), "no answer in time, tcp:127.0.0.1:")) << all.status();
  EXPECT_TRUE(absl::StrContains(all.status().message(), "Connection refused")) << all.status();
  // Where nobody is waited for any more, neither is the time.
  const auto refused = ConnectToAny(std::vector<Endpoint>{refuses, refuses}, "name", absl::Hours(1), *cancel);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable) << refused.status();
  cancel->Signal();
  const auto cancelled = ConnectToAny(std::vector<Endpoint>{silent.endpoint()}, "name", absl::Hours(1), *cancel);
  EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled) << cancelled.status();
}

TEST(ConnectTest, WhatWasFoundSlowlyIsTriedAllTheSame) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const SilentPlace silent;
  Endpoint place = PlaceOf(**listener);
  const auto slowly = [&](const Address&) -> absl::StatusOr<std::vector<Endpoint>> {
    // Stands for a name server that does not answer.
    absl::SleepFor(absl::Milliseconds(1100));
    return std::vector<Endpoint>{place};
  };
  const Address name = *ParseAddress("tcp:name:1");
  const auto stream = Connect(name, absl::Seconds(1), *cancel, slowly);
  EXPECT_TRUE(stream.ok()) << stream.status();
  place = silent.endpoint();
  const absl::Status status = Connect(name, absl::Milliseconds(50), *cancel, slowly).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "no answer in time (resolving tcp:name:1 took 1.")) << status;
  const absl::Status none = Connect(name, absl::Milliseconds(50), *cancel, [&](const Address& address) {
                              (void)slowly(address);
                              return absl::NotFoundError("tcp:name:1: Name or service not known");
                            }).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound) << none;
  EXPECT_TRUE(absl::StrContains(none.message(), "not known (resolving tcp:name:1 took 1.")) << none;
}

// What TCP tells of a line that is slow: in a network of a thread's own, with a queue before a shaper (tc-tbf(8)).
TEST(QueueDelayTest, LineThatIsSlowForWhatGoesHasOne) {
  StartOrDie("network", [] {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0) << strerror(errno);
    ASSERT_EQ(system("/sbin/ip link set lo up"), 0);
    // A MiB takes 0.1 s.
    ASSERT_EQ(system("/sbin/tc qdisc add dev lo root tbf rate 80mbit burst 128k latency 200ms"), 0);
    const auto cancel = EventFd::Create();
    const auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
    ASSERT_TRUE(listener.ok()) << listener.status();
    const auto client = Connect((*listener)->address(), absl::Seconds(30), *cancel);
    ASSERT_TRUE(client.ok()) << client.status();
    const auto server = Accept(**listener, *cancel);
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_LT((*client)->QueueDelay(), absl::Milliseconds(20)) << "nothing went so far";
    std::vector<uint8_t> bytes(4 << 20, 1);
    std::vector<uint8_t> read(bytes.size());
    Thread reader = StartOrDie("reader", [&] { EXPECT_EQ((*server)->ReadAll(read), absl::OkStatus()); });
    ASSERT_EQ((*client)->WriteAll(std::span<const uint8_t>(bytes)), absl::OkStatus());
    reader.Join();
    EXPECT_GT((*client)->QueueDelay(), absl::Milliseconds(20));
  }).Join();
}

TEST(QueueDelayTest, WhereThereIsNoLineThereIsNone) {
  const auto ends = MakeStreamPair();
  ASSERT_TRUE(ends.ok()) << ends.status();
  EXPECT_EQ(ends->first->QueueDelay(), absl::ZeroDuration());
}

}  // namespace
}  // namespace ferrite::migration
