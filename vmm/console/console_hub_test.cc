#include "vmm/console/console_hub.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/monotonic.h"
#include "base/socket_file.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "base/unix_socket.h"
#include "tests/fakes/captured_log.h"
#include "tests/fakes/full_file.h"
#include "tests/fakes/no_descriptors.h"
#include "tests/fakes/test_thread.h"
#include "vmm/console/escape_filter.h"

namespace ferrite {
namespace {

constexpr int kDeadlineMs = 20'000;

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// What arrives at `fd` until `marker` has come, or the other end is closed.
std::string ReadUntil(int fd, absl::string_view marker) {
  std::string text;
  while (marker.empty() || !absl::StrContains(text, marker)) {
    pollfd polled = {fd, POLLIN, 0};
    if (poll(&polled, 1, kDeadlineMs) != 1) {
      ADD_FAILURE() << "deadline; so far " << text.size() << " bytes";
      break;
    }
    char buffer[65536];
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n <= 0) {
      break;
    }
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

void WriteAll(int fd, const std::string& text) {
  ASSERT_EQ(write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read = Fd(ends[0]);
    write = Fd(ends[1]);
  }
  Fd read;
  Fd write;
};

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A port with a receive FIFO of 16 bytes, as the 16550 has.
class FakePort {
 public:
  explicit FakePort(ConsoleHub& hub) : hub_(hub) {
    hub_.SetReceiver([this](std::span<const uint8_t> bytes) {
      TimedMutexLock lock(&mutex_);
      const size_t n = std::min(bytes.size(), 16 - fifo_.size());
      fifo_.append(reinterpret_cast<const char*>(bytes.data()), n);
      return n;
    });
  }
  ~FakePort() { hub_.SetReceiver(nullptr); }

  // What the guest reads, until it has `size` bytes.
  std::string Read(size_t size) {
    std::string text;
    while (text.size() < size) {
      {
        TimedMutexLock lock(&mutex_);
        const auto some = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !fifo_.empty(); };
        if (!mutex_.AwaitFor(absl::Condition(&some), absl::Milliseconds(kDeadlineMs))) {
          ADD_FAILURE() << "deadline; so far " << text;
          return text;
        }
        text += fifo_;
        fifo_.clear();
      }
      hub_.ReceiverReady();
    }
    return text;
  }

 private:
  ConsoleHub& hub_;
  TimedMutex mutex_;
  std::string fifo_ ABSL_GUARDED_BY(mutex_);
};

class ConsoleHubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-console-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<ConsoleHub> Make(ConsoleHub::Options options) {
    auto hub = ConsoleHub::Create(std::move(options));
    EXPECT_TRUE(hub.ok()) << hub.status();
    return *std::move(hub);
  }
  ConsoleHub::Options Stdio() {
    ConsoleHub::Options options;
    options.sink.kind = ConsoleSink::Kind::kStdio;
    options.input_fd = in_.read.get();
    options.output_fd = out_.write.get();
    return options;
  }
  // This process's own terminal; `left` is notified of Ctrl-a x.
  static ConsoleHub::Options Terminal(absl::Notification& left) {
    ConsoleHub::Options options;
    options.sink.kind = ConsoleSink::Kind::kStdio;
    options.leave = [&left] { left.Notify(); };
    return options;
  }

  Pipe in_;
  Pipe out_;
  std::string directory_;
};

TEST(ConsoleSinkTest, IsParsed) {
  EXPECT_EQ(ParseConsoleSink("stdio")->kind, ConsoleSink::Kind::kStdio);
  EXPECT_EQ(ParseConsoleSink("none")->kind, ConsoleSink::Kind::kNone);
  EXPECT_EQ(ParseConsoleSink("file:/a:b")->path, "/a:b");
  EXPECT_EQ(ParseConsoleSink("unix:/a")->kind, ConsoleSink::Kind::kUnix);
  EXPECT_EQ(ParseConsoleSink("file:/a")->max_bytes, 0u);
  EXPECT_EQ(ParseConsoleSink("file:/a,b,max=1M")->path, "/a,b");
  EXPECT_EQ(ParseConsoleSink("file:/a,b,max=1M")->max_bytes, 1u << 20);
  for (const char* bad : {"", "stdout", "file", "file:", "unix:", "/a", "file:,max=1M",
                          "file:/a,max=", "file:/a,max=1X", "file:/a,max=4095", "file:/a,max=0"}) {
    EXPECT_FALSE(ParseConsoleSink(bad).ok()) << bad;
  }
}

TEST(EscapeFilterTest, CtrlAIsTheOnlyKeyTaken) {
  EscapeFilter filter;
  EXPECT_EQ(filter.Feed(Bytes("ls\x03\r")).to_guest, "ls\x03\r");
  EXPECT_EQ(filter.Feed(Bytes("a\x01")).to_guest, "a");
  EXPECT_TRUE(filter.Feed(Bytes("h")).help);
  EXPECT_EQ(filter.Feed(Bytes("\x01\x01")).to_guest, "\x01");
  EXPECT_EQ(filter.Feed(Bytes("\x01z")).to_guest, "\x01z");
  const EscapeFilter::Result result = filter.Feed(Bytes("b\x01xc"));
  EXPECT_TRUE(result.leave);
  EXPECT_EQ(result.to_guest, "b");
}

TEST_F(ConsoleHubTest, AllOutputReachesAPipeBeforeTheEnd) {
  auto hub = Make(Stdio());
  std::string expected;
  std::string got;
  std::thread reader([&] { got = ReadUntil(out_.read.get(), ""); });
  for (int i = 0; i < 20'000; ++i) {
    const std::string line = absl::StrCat("line ", i, "\n");
    expected += line;
    hub->Transmit(Bytes(line));
    if (i % 1000 == 0) {
      std::this_thread::yield();
    }
  }
  EXPECT_LT(expected.size(), ConsoleHub::kBufferBytes);
  hub.reset();
  out_.write.Reset();
  reader.join();
  EXPECT_EQ(got, expected);
}

TEST_F(ConsoleHubTest, StandardInputReachesThePortAndItsEndIsNotTheEnd) {
  auto hub = Make(Stdio());
  const std::string text(1000, 'k');
  WriteAll(in_.write.get(), text);
  in_.write.Reset();
  FakePort port(*hub);
  EXPECT_EQ(port.Read(text.size()), text);
  hub->Transmit(Bytes("still here"));
  EXPECT_EQ(ReadUntil(out_.read.get(), "here"), "still here");
}

TEST_F(ConsoleHubTest, APipeGetsNoEscapeKeys) {
  auto options = Stdio();
  options.leave = [] { ADD_FAILURE() << "left"; };
  auto hub = Make(std::move(options));
  FakePort port(*hub);
  WriteAll(in_.write.get(), "\x01x");
  EXPECT_EQ(port.Read(2), "\x01x");
}

TEST_F(ConsoleHubTest, TransmitNeverBlocksAndTellsWhatWasDropped) {
  auto options = Stdio();
  options.sink_patience = absl::ZeroDuration();
  auto hub = Make(std::move(options));
  // Nobody reads: 1 MiB is more than the pipe and the buffer hold.
  const std::string chunk(4096, 'x');
  for (int i = 0; i < 256; ++i) {
    hub->Transmit(Bytes(chunk));
  }
  hub->Transmit(Bytes("the end"));
  const std::string text = ReadUntil(out_.read.get(), "the end");
  EXPECT_TRUE(absl::StrContains(text, " bytes of console output were dropped here")) << text.size();
  EXPECT_GT(hub->dropped_bytes(), 0u);
  EXPECT_GE(text.size(), ConsoleHub::kBufferBytes);
}

TEST_F(ConsoleHubTest, ReaderThatIsGoneHurtsNobody) {
  auto hub = Make(Stdio());
  out_.read.Reset();
  for (int i = 0; i < 100; ++i) {
    hub->Transmit(Bytes("hello"));
  }
  auto client = hub->Attach();
  ASSERT_TRUE(client.ok());
  hub->Transmit(Bytes("end"));
  EXPECT_TRUE(absl::StrContains(ReadUntil(client->get(), "end"), "hello"));
}

TEST_F(ConsoleHubTest, AttachingReplaysTheLastOutputAndTakesInput) {
  auto hub = Make({});
  hub->Transmit(Bytes(std::string(ConsoleHub::kReplayBytes, 'o')));
  hub->Transmit(Bytes("login: "));
  auto first = hub->Attach();
  auto second = hub->Attach();
  ASSERT_TRUE(first.ok() && second.ok());
  for (const Fd* client : {&*first, &*second}) {
    const std::string text = ReadUntil(client->get(), "login: ");
    EXPECT_EQ(text.size(), ConsoleHub::kReplayBytes);
    EXPECT_TRUE(absl::EndsWith(text, "ologin: "));
  }
  FakePort port(*hub);
  WriteAll(first->get(), "root\n");
  EXPECT_EQ(port.Read(5), "root\n");
  first->Reset();
  hub->Transmit(Bytes("# "));
  EXPECT_EQ(ReadUntil(second->get(), "# "), "# ");
}

TEST_F(ConsoleHubTest, SlowClientHoldsUpNobody) {
  auto hub = Make({});
  auto slow = hub->Attach();
  auto fast = hub->Attach();
  ASSERT_TRUE(slow.ok() && fast.ok());
  const std::string chunk(1000, 'x');
  for (int i = 0; i < 2000; ++i) {
    const std::string line = absl::StrCat(chunk, i, "\n");
    hub->Transmit(Bytes(line));
    if (i % 100 == 99) {
      ASSERT_TRUE(absl::StrContains(ReadUntil(fast->get(), absl::StrCat("x", i, "\n")), "x"));
    }
  }
  EXPECT_TRUE(absl::StrContains(ReadUntil(slow->get(), "x1999\n"), "dropped here"));
  hub->Transmit(Bytes("more than the client takes"));
  hub.reset();
}

TEST_F(ConsoleHubTest, ClientsAreLimitedAndTheirPlacesAreFreed) {
  auto hub = Make({});
  std::vector<Fd> clients;
  for (size_t i = 0; i < ConsoleHub::kMaxClients; ++i) {
    auto client = hub->Attach();
    ASSERT_TRUE(client.ok()) << client.status();
    clients.push_back(*std::move(client));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(hub->Attach().status()));
  // Our closing is seen by the console's thread; its answer to another client's input says that it has run.
  clients.pop_back();
  const MonotonicTime deadline = MonotonicTime::Now() + absl::Milliseconds(kDeadlineMs);
  absl::StatusOr<Fd> again = absl::UnknownError("");
  while (!again.ok() && MonotonicTime::Now() < deadline) {
    again = hub->Attach();
    std::this_thread::yield();
  }
  EXPECT_TRUE(again.ok()) << again.status();
}

TEST_F(ConsoleHubTest, FileIsAppendedTo) {
  const std::string path = directory_ + "/out";
  std::ofstream(path) << "before\n";
  auto hub = Make({.sink = {ConsoleSink::Kind::kFile, path}});
  hub->Transmit(Bytes("after\n"));
  hub.reset();
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), "before\nafter\n");
}

TEST_F(ConsoleHubTest, AFileIsWrittenOnceThereIsRoomAgainAndTellsWhatIsMissing) {
  const std::string path = directory_ + "/out";
  FullFile file(path, /*room=*/10);
  CapturedLog log;
  auto hub = Make({.sink = {ConsoleSink::Kind::kFile, path}, .retry_period = absl::Milliseconds(1)});
  hub->Transmit(Bytes("0123456789 and more"));
  ASSERT_TRUE(log.WaitFor("console output waits: write to " + path)) << log.text();
  const std::string later(ConsoleHub::kBufferBytes + 1000, 'x');
  hub->Transmit(Bytes(later));
  // Everybody else goes on meanwhile, and there are more tries that fail.
  auto client = hub->Attach();
  ASSERT_TRUE(client.ok());
  EXPECT_EQ(ReadUntil(client->get(), "x").find_first_not_of('x'), std::string::npos);
  file.MakeRoom();
  ASSERT_TRUE(log.WaitFor("console output goes on: " + path)) << log.text();
  const uint64_t dropped = hub->dropped_bytes();
  hub.reset();
  EXPECT_EQ(dropped, std::string(" and more").size() + 1000);
  const std::string notice = absl::StrCat("\r\n[ferrite] ", dropped, " bytes of console output were dropped here\r\n");
  EXPECT_TRUE(file.Appended() == absl::StrCat("0123456789", notice, later.substr(1000)))
      << file.Appended().substr(0, 200);
  EXPECT_EQ(log.text().find("waits"), log.text().rfind("waits")) << "told once: " << log.text();
}

TEST_F(ConsoleHubTest, TheEndDoesNotWaitForAFullDisk) {
  const std::string path = directory_ + "/out";
  FullFile file(path, /*room=*/10);
  CapturedLog log;
  auto hub =
      Make({.sink = {ConsoleSink::Kind::kFile, path}, .sink_patience = absl::Hours(1), .retry_period = absl::Hours(1)});
  hub->Transmit(Bytes("0123456789 and more"));
  ASSERT_TRUE(log.WaitFor("console output waits"));
  hub->Transmit(Bytes("!"));
  hub.reset();
  EXPECT_EQ(file.Appended(), "0123456789");
  EXPECT_TRUE(absl::StrContains(log.text(), "its next 10 bytes are not there")) << log.text();
}

TEST_F(ConsoleHubTest, WhatBecameWritableIsWrittenAtTheEnd) {
  const std::string path = directory_ + "/out";
  FullFile file(path, /*room=*/10);
  CapturedLog log;
  auto hub = Make({.sink = {ConsoleSink::Kind::kFile, path}, .retry_period = absl::Hours(1)});
  hub->Transmit(Bytes("0123456789 and more"));
  ASSERT_TRUE(log.WaitFor("console output waits"));
  file.MakeRoom();
  hub.reset();
  EXPECT_EQ(file.Appended(), "0123456789 and more");
}

std::string LimitNotice(absl::string_view limit) {
  return absl::StrCat("\r\n[ferrite] this file has reached its limit of ", limit, ": what follows is not in it\r\n");
}

TEST_F(ConsoleHubTest, AFileGrowsToItsLimitAndSaysSoAtItsEnd) {
  const std::string path = directory_ + "/out";
  const std::string before(1000, 'b');
  std::ofstream(path) << before;
  CapturedLog log;
  auto hub =
      Make({.sink = {ConsoleSink::Kind::kFile, path, /*max_bytes=*/4096}, .retry_period = absl::Milliseconds(1)});
  const std::string text(10'000, 'x');
  hub->Transmit(Bytes(text));
  ASSERT_TRUE(log.WaitFor(absl::StrCat("console output waits: ", path, " has reached its limit of 4K"))) << log.text();
  // More of it, and more tries, change nothing. Nobody waits.
  hub->Transmit(Bytes(text));
  auto client = hub->Attach();
  ASSERT_TRUE(client.ok()) << client.status();
  size_t replayed = 0;
  while (replayed < 2 * text.size()) {
    replayed += ReadUntil(client->get(), "x").size();
  }
  const std::string notice = LimitNotice("4K");
  const std::string full = absl::StrCat(before, std::string(4096 - before.size() - notice.size(), 'x'), notice);
  EXPECT_EQ(Contents(path), full);
  // Somebody cuts it off: it goes on with what came meanwhile.
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  ASSERT_TRUE(log.WaitFor("console output goes on: " + path)) << log.text();
  hub.reset();
  EXPECT_EQ(Contents(path), absl::StrCat(std::string(4096 - notice.size(), 'x'), notice));
}

TEST_F(ConsoleHubTest, AFileThatIsBeyondItsLimitAlreadyStaysAsItIs) {
  const std::string path = directory_ + "/out";
  for (const size_t size : {size_t{4090}, size_t{4096}, size_t{10'000}}) {
    const std::string before(size, 'b');
    std::ofstream(path) << before;
    CapturedLog log;
    auto hub = Make({.sink = {ConsoleSink::Kind::kFile, path, /*max_bytes=*/4096}});
    hub->Transmit(Bytes("more"));
    ASSERT_TRUE(log.WaitFor("has reached its limit of 4K")) << log.text();
    hub.reset();
    EXPECT_TRUE(absl::StrContains(log.text(), "its next 4 bytes are not there")) << log.text();
    EXPECT_EQ(Contents(path), before);
  }
}

TEST_F(ConsoleHubTest, OnlyAFileHasALimit) {
  const std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const Fd reader(open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  EXPECT_TRUE(ConsoleHub::Create({.sink = {ConsoleSink::Kind::kFile, fifo}}).ok());
  const absl::Status status = ConsoleHub::Create({.sink = {ConsoleSink::Kind::kFile, fifo, 4096}}).status();
  EXPECT_TRUE(absl::StrContains(status.message(), fifo + " is not a regular file")) << status;
}

TEST_F(ConsoleHubTest, WrongSinksAreNamed) {
  for (const auto kind : {ConsoleSink::Kind::kFile, ConsoleSink::Kind::kUnix}) {
    const absl::Status status = ConsoleHub::Create({.sink = {kind, directory_}}).status();
    EXPECT_TRUE(absl::StrContains(status.message(), directory_)) << status;
  }
  const std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_FALSE(ConsoleHub::Create({.sink = {ConsoleSink::Kind::kFile, fifo}}).ok());
  const std::string longer = absl::StrCat(directory_, "/", std::string(100, 'l'));
  EXPECT_TRUE(absl::StrContains(ConsoleHub::Create({.sink = {ConsoleSink::Kind::kUnix, longer}}).status().message(),
                                "limit is 107"));
}

TEST_F(ConsoleHubTest, SocketServesOneClientAtATime) {
  const std::string path = directory_ + "/sock";
  {
    auto hub = Make({.sink = {ConsoleSink::Kind::kUnix, path}});
    FakePort port(*hub);
    hub->Transmit(Bytes("boot\n"));
    auto first = ConnectToUnixSocket(path);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(ReadUntil(first->get(), "boot\n"), "boot\n");
    auto second = ConnectToUnixSocket(path);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_TRUE(absl::StrContains(ReadUntil(second->get(), ""), "in use"));
    WriteAll(first->get(), "typed");
    EXPECT_EQ(port.Read(5), "typed");
    EXPECT_TRUE(absl::IsAlreadyExists(ConsoleHub::Create({.sink = {ConsoleSink::Kind::kUnix, path}}).status()));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  // A socket that nobody listens on any more is in nobody's way.
  ASSERT_TRUE(ListenAt(Fd(open(directory_.c_str(), O_PATH | O_CLOEXEC)), "sock").ok());
  ASSERT_TRUE(std::filesystem::exists(path));
  EXPECT_TRUE(ConsoleHub::Create({.sink = {ConsoleSink::Kind::kUnix, path}}).ok());
}

// Somebody else's socket, which accepts nobody and lets nobody else wait: connecting to it would wait for ever.
TEST_F(ConsoleHubTest, ASocketWithAFullBacklogIsSomebodysAndNotWaitedFor) {
  const std::string path = directory_ + "/sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), name, sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 0), 0);
  std::vector<Fd> waiting;
  do {
    waiting.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  } while (connect(waiting.back().get(), name, sizeof(address)) == 0);
  ASSERT_EQ(errno, EAGAIN);
  TimedNotification over;
  absl::Status status;
  Thread creating = StartOrDie("creator", [&] {
    status = ConsoleHub::Create({.sink = {ConsoleSink::Kind::kUnix, path}}).status();
    over.Notify();
  });
  EXPECT_TRUE(over.WaitFor(absl::Milliseconds(kDeadlineMs))) << "it waits";
  waiting.clear();
  ASSERT_EQ(shutdown(listener.get(), SHUT_RDWR), 0);
  creating.Join();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(ConsoleHubTest, ASocketOfAnotherKindStays) {
  const std::string path = directory_ + "/sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const Fd datagrams(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(datagrams.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const absl::Status status = ConsoleHub::Create({.sink = {ConsoleSink::Kind::kUnix, path}}).status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(ConsoleHubTest, ASocketClientIsAcceptedOnceThereAreDescriptorsAgain) {
  const auto cpu_time = [] {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return absl::DurationFromTimespec(now);
  };
  const CapturedLog log;
  const std::string path = directory_ + "/sock";
  auto hub = Make({.sink = {ConsoleSink::Kind::kUnix, path}, .retry_period = absl::Milliseconds(100)});
  hub->Transmit(Bytes("boot\n"));
  const Fd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  {
    const NoDescriptors none;
    const absl::Duration before = cpu_time();
    ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    pollfd polled = {client.get(), POLLIN, 0};
    EXPECT_EQ(poll(&polled, 1, 500), 0) << "there is no room for it";
    EXPECT_LT(cpu_time() - before, absl::Milliseconds(200)) << "it spins";
    EXPECT_TRUE(log.WaitFor("raise the limit of open files (ulimit -n); it is tried again\n"));
  }
  EXPECT_EQ(ReadUntil(client.get(), "boot\n"), "boot\n");
}

// poll(2) refuses more entries than there may be files, however many are open.
TEST_F(ConsoleHubTest, FewerFilesThanAreOpenHoldItUpAndNoMore) {
  auto hub = Make({.client_patience = absl::Milliseconds(100)});
  auto client = hub->Attach();
  ASSERT_TRUE(client.ok()) << client.status();
  hub->Transmit(Bytes("boot\n"));
  EXPECT_EQ(ReadUntil(client->get(), "boot\n"), "boot\n");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  hub->Transmit(Bytes("login: "));
  pollfd polled = {client->get(), POLLIN, 0};
  EXPECT_EQ(poll(&polled, 1, 100), 0) << "the limit holds up nobody: what is this test about?";
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(ReadUntil(client->get(), "login: "), "login: ");

  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  hub->Transmit(Bytes("what nobody takes any more"));
  hub.reset();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

// A process of its own, whose controlling terminal is a pty: raw mode needs the foreground.
TEST_F(ConsoleHubTest, TerminalIsRawAndRestoredAndCtrlALeaves) {
  int master = -1;
  const pid_t child = forkpty(&master, nullptr, nullptr, nullptr);
  ASSERT_GE(child, 0);
  if (child == 0) {
    absl::Notification left;
    {
      auto hub = ConsoleHub::Create(Terminal(left));
      FakePort port(**hub);
      (*hub)->Transmit(Bytes("ready\n"));
      const std::string typed = port.Read(3);
      (*hub)->Transmit(Bytes(absl::StrCat("typed ", typed == "a\x03\x01" ? "right" : "wrong", "\n")));
      left.WaitForNotificationWithTimeout(absl::Milliseconds(kDeadlineMs));
    }
    termios settings;
    tcgetattr(0, &settings);
    dprintf(1, "echo %s\n", (settings.c_lflag & ECHO) != 0 ? "restored" : "lost");
    _exit(0);
  }
  const Fd terminal(master);
  ReadUntil(master, "ready");
  termios settings;
  tcgetattr(master, &settings);
  EXPECT_EQ(settings.c_lflag & (ECHO | ICANON | ISIG), 0u);
  WriteAll(master, "a\x03\x01\x01");
  ReadUntil(master, "typed right");
  WriteAll(master, "\x01h");
  ReadUntil(master, "Ctrl-a x: stop the machine");
  WriteAll(master, "\x01x");
  ReadUntil(master, "echo restored");
}

// Nobody reads the terminal, and the guest reads nothing: Ctrl-a x leaves all the same, and the end comes.
TEST_F(ConsoleHubTest, StalledTerminalCanBeLeft) {
  Pipe ended;
  int master = -1;
  const pid_t child = forkpty(&master, nullptr, nullptr, nullptr);
  ASSERT_GE(child, 0);
  if (child == 0) {
    absl::Notification left;
    ConsoleHub::Options options = Terminal(left);
    options.sink_patience = absl::Milliseconds(100);
    {
      auto hub = ConsoleHub::Create(std::move(options));
      FakePort port(**hub);
      (*hub)->Transmit(Bytes("ready\n"));
      if (!left.WaitForNotificationWithTimeout(absl::Milliseconds(kDeadlineMs))) {
        _exit(1);
      }
      (*hub)->Transmit(Bytes(std::string(ConsoleHub::kBufferBytes / 2, 'x')));
    }
    WriteAll(ended.write.get(), "ended");
    _exit(0);
  }
  const Fd terminal(master);
  ReadUntil(master, "ready");
  WriteAll(master, std::string(3000, 'k'));
  WriteAll(master, std::string(3000, 'k'));
  WriteAll(master, "\x01x");
  ended.write.Reset();
  EXPECT_EQ(ReadUntil(ended.read.get(), "ended"), "ended");
}

}  // namespace
}  // namespace ferrite
