#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clean_text.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/channel/address.h"
#include "migration/channel/dialer.h"
#include "migration/channel/socket.h"
#include "migration/channel/stream.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

TEST(AddressTest, UnderstandsItsForms) {
  for (const char* text : {"tcp:host:1234", "tcp:[::1]:80", "unix:/run/x", "tcp:127.0.0.1:0"}) {
    const auto address = ParseAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->ToString(), text);
  }
}

TEST(AddressTest, SaysWhatIsWrong) {
  const std::string long_path = absl::StrCat("unix:/", std::string(200, 'x'));
  for (const char* text : {"", "host:1234", "tcp:host", "tcp::1", "tcp:host:", "tcp:host:99999", "tcp:host:-1",
                           "tcp:::1:80", "tcp:[::1:80", "unix:", long_path.c_str()}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(status.message().find("tcp:HOST:PORT"), absl::string_view::npos) << status;
  }
}

TEST(AddressTest, IsOneThatCanBeShown) {
  for (const char* text :
       {"tcp:\x1b[2Jhost:1", "unix:/run/\x1b]0;x\a", "unix:/run/a\nto unix:/b", "unix:/\xff", "\x1b"}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(IsClean(status.message())) << status;
    EXPECT_NE(status.message().find("cannot be shown"), absl::string_view::npos) << status;
  }
}

TEST(StreamTest, GathersAndScatters) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  std::vector<uint8_t> sent(100'000);
  for (size_t i = 0; i < sent.size(); ++i) {
    sent[i] = static_cast<uint8_t>(i * 7);
  }
  Thread writer = StartOrDie("writer", [&] {
    std::vector<iovec> pieces;
    for (size_t at = 0; at < sent.size(); at += 37) {  // more pieces than the kernel takes at once
      pieces.push_back({.iov_base = &sent[at], .iov_len = std::min<size_t>(37, sent.size() - at)});
    }
    EXPECT_TRUE(pair->first->WriteAll(std::span<iovec>(pieces)).ok());
  });
  std::vector<uint8_t> got(sent.size());
  iovec halves[2] = {{.iov_base = got.data(), .iov_len = 50'001}, {.iov_base = &got[50'001], .iov_len = 49'999}};
  EXPECT_EQ(*pair->second->ReadAtLeast(halves, got.size()), got.size());
  writer.Join();
  EXPECT_EQ(got, sent);
}

TEST(StreamTest, TellsACloseFromABreak) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  std::array<uint8_t, 8> bytes{};
  ASSERT_TRUE(pair->first->WriteAll(bytes).ok());
  pair->first.reset();
  EXPECT_TRUE(pair->second->ReadAll(bytes).ok());
  EXPECT_EQ(pair->second->ReadAll(bytes).code(), absl::StatusCode::kOutOfRange);

  auto broken = MakeStreamPair();
  ASSERT_TRUE(broken.ok());
  ASSERT_TRUE(broken->first->WriteAll(std::span<const uint8_t>(bytes).first(3)).ok());
  broken->first.reset();
  EXPECT_EQ(broken->second->ReadAll(bytes).code(), absl::StatusCode::kUnavailable);
}

TEST(StreamTest, GivesUpAPeerThatStopsInTheMiddle) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  pair->second->SetPatience(absl::Milliseconds(20));
  std::array<uint8_t, 8> bytes{};
  ASSERT_TRUE(pair->first->WriteAll(std::span<const uint8_t>(bytes).first(3)).ok());
  const absl::Status read = pair->second->ReadAll(bytes);
  EXPECT_NE(read.message().find("in the middle of a frame"), absl::string_view::npos) << read;
  // Nobody reads what it writes.
  const std::vector<uint8_t> much(16 << 20);
  const absl::Status write = pair->second->WriteAll(much);
  EXPECT_NE(write.message().find("stopped reading"), absl::string_view::npos) << write;
}

// Also when nothing came of the rest yet: between a frame's head and what follows it.
TEST(StreamTest, WriteThatWaitsIsHurried) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  pair->second->SetPatience(absl::Minutes(5));
  absl::Status written;
  Thread writer = StartOrDie("test-writer", [&] {
    const std::vector<uint8_t> much(16 << 20);
    written = pair->second->WriteAll(much);
  });
  std::array<uint8_t, 8> first;
  ASSERT_TRUE(pair->first->ReadAll(first).ok()) << "it is on";
  pair->second->SetWritePatience(absl::Milliseconds(20));
  writer.Join();
  EXPECT_NE(written.message().find("stopped reading"), absl::string_view::npos) << written;
}

TEST(StreamTest, GivesUpAPeerThatStopsBehindAHead) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  ASSERT_TRUE(pair->first->WriteAll(std::vector<uint8_t>(32)).ok());
  std::array<uint8_t, 32> bytes;
  ASSERT_TRUE(pair->second->ReadAll(bytes).ok());
  pair->second->SetPatience(absl::Milliseconds(50));
  const absl::Status status = pair->second->ReadRest(bytes);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("in the middle of a frame"), absl::string_view::npos) << status;
}

// Whoever reads it off as a lost connection would try again for ever.
TEST(StreamTest, TellsMemoryThatCannotBeHadFromABrokenConnection) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  void* const closed = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(closed, MAP_FAILED);
  const std::span<uint8_t> memory(static_cast<uint8_t*>(closed), 4096);
  const absl::Status write = pair->first->WriteAll(std::span<const uint8_t>(memory));
  EXPECT_EQ(write.code(), absl::StatusCode::kResourceExhausted) << write;
  EXPECT_TRUE(absl::StrContains(write.message(), "Bad address (memory of this side cannot be had; ")) << write;
  const std::array<uint8_t, 8> bytes{};
  ASSERT_TRUE(pair->first->WriteAll(bytes).ok());
  const absl::Status read = pair->second->ReadAll(memory.first(8));
  EXPECT_EQ(read.code(), absl::StatusCode::kResourceExhausted) << read;
  EXPECT_TRUE(absl::StrContains(read.message(), "Bad address")) << read;
  munmap(closed, 4096);
}

TEST(StreamTest, ShutdownEndsAReadThatWaits) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  Thread reader = StartOrDie("reader", [&] {
    std::array<uint8_t, 8> bytes{};
    EXPECT_FALSE(pair->second->ReadAll(bytes).ok());
  });
  pair->second->Shutdown();
}

// A peer can have filled the kernel's buffer before: what is in there is nobody's any more.
TEST(StreamTest, ShutdownEndsReadsOfWhatCameBefore) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  ASSERT_TRUE(pair->first->WriteAll(std::vector<uint8_t>(64)).ok());
  std::array<uint8_t, 32> bytes;
  ASSERT_TRUE(pair->second->ReadAll(bytes).ok());
  pair->second->Shutdown();
  EXPECT_TRUE(absl::IsOutOfRange(pair->second->ReadAll(bytes)));
}

TEST(StreamTest, ShutdownEndsARest) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  pair->first->Rest(absl::Milliseconds(1));
  Thread rester = StartOrDie("rester", [&] { pair->second->Rest(absl::Hours(1)); });
  pair->second->Shutdown();
}

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
    auto server = (*listener)->Accept(*cancel);
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
  EXPECT_EQ((*listener)->Accept(*cancel).status().code(), absl::StatusCode::kCancelled);
  rmdir(directory);
}

// A place that takes no connection and refuses none: a listener whose queue is full.
class SilentPlace {
 public:
  SilentPlace() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    auto* in = reinterpret_cast<sockaddr_in*>(&endpoint_.storage);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    endpoint_.length = sizeof(*in);
    EXPECT_EQ(bind(listener_.get(), endpoint_.get(), endpoint_.length), 0);
    EXPECT_EQ(listen(listener_.get(), 0), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&endpoint_.storage), &endpoint_.length), 0);
    // Until one of them is not answered.
    pollfd polled{};
    do {
      queued_.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      (void)connect(queued_.back().get(), endpoint_.get(), endpoint_.length);
      polled = {.fd = queued_.back().get(), .events = POLLOUT, .revents = 0};
    } while (poll(&polled, 1, 50) == 1 && queued_.size() < 8);
  }
  const Endpoint& endpoint() const { return endpoint_; }

 private:
  Endpoint endpoint_;
  Fd listener_;
  std::vector<Fd> queued_;
};

Endpoint PlaceOf(const Listener& listener) {
  Endpoint endpoint;
  endpoint.length = sizeof(endpoint.storage);
  EXPECT_EQ(getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&endpoint.storage), &endpoint.length), 0);
  return endpoint;
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
  auto server = (*listener)->Accept(*cancel);
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

TEST(DialerTest, FurtherConnectionsGoWhereTheFirstOneWent) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const SilentPlace silent;
  std::vector<Endpoint> places = {silent.endpoint(), PlaceOf(**listener)};
  int asked = 0;
  Dialer dialer([&](const Address&) {
    ++asked;
    return places;
  });
  const Address name = *ParseAddress("tcp:name:1");
  ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  EXPECT_EQ(asked, 1);
  const MonotonicTime start = MonotonicTime::Now();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  }
  EXPECT_EQ(asked, 1);
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(4)) << "the silent place is not waited for again";
  // Another name is another place.
  ASSERT_TRUE(dialer.Connect(*ParseAddress("tcp:other:1"), absl::Hours(1), *cancel).ok());
  EXPECT_EQ(asked, 2);
}

TEST(DialerTest, TheNameIsLookedUpAgainWhereNobodyAnswersAnyMore) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  std::vector<Endpoint> places = {PlaceOf(**listener)};
  Dialer dialer([&](const Address&) { return places; });
  const Address name = *ParseAddress("tcp:name:1");
  ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  auto moved = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(moved.ok()) << moved.status();
  places = {PlaceOf(**moved)};
  listener->reset();
  ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  EXPECT_TRUE((*moved)->Accept(*cancel).ok());
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

}  // namespace
}  // namespace ferrite::migration
