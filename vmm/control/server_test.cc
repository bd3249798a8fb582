#include "vmm/control/server.h"

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/clean_text.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/unix_socket.h"
#include "proto/control.capnp.h"
#include "tests/fakes/control_place.h"
#include "tests/fakes/fake_machine.h"
#include "tests/fakes/raw_client.h"
#include "tests/fakes/test_thread.h"
#include "vmm/control/client.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr uint64_t kMiB = 1 << 20;

MachineConfig Config() {
  MachineConfig config;
  config.name = "vm";
  config.cpus = 3;
  config.memory_bytes = 64 * kMiB;
  config.kernel_path = "/boot/vmlinuz";
  config.command_line = "console=ttyS0";
  config.devices = {DiskConfig{.id = "root", .path = "/img", .read_only = true}, BalloonConfig{}};
  return config;
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto console = ConsoleHub::Create({});
    ASSERT_TRUE(console.ok());
    console_ = *std::move(console);
    auto server = ControlServer::Create(
        place_.Listen(), {.name = "vm", .machine = &machine_, .console = console_.get(), .balloon = &balloon_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    server_.reset();
    console_.reset();
  }

  std::unique_ptr<ControlClient> Connect() { return place_.Connect(kPatience); }
  Fd ConnectRaw() {
    auto fd = ConnectToUnixSocket(place_.dir().socket_path());
    EXPECT_TRUE(fd.ok()) << fd.status();
    return *std::move(fd);
  }
  void ExpectServes() {
    auto description = Connect()->Describe();
    ASSERT_TRUE(description.ok()) << description.status();
    EXPECT_EQ(description->name, "vm");
  }
  // The server closes it, perhaps after some bytes.
  static void ExpectDropped(const Fd& fd) {
    char buffer[4096];
    while (true) {
      pollfd polled = {fd.get(), POLLIN, 0};
      ASSERT_EQ(poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1) << "not dropped";
      if (recv(fd.get(), buffer, sizeof(buffer), 0) <= 0) {
        return;
      }
    }
  }

  ControlPlace place_;
  FakeMachine machine_{Config()};
  FakeBalloon balloon_;
  std::unique_ptr<ConsoleHub> console_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ServerTest, DescribesTheMachine) {
  auto description = Connect()->Describe();
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->name, "vm");
  EXPECT_EQ(description->state, MachineState::kRunning);
  EXPECT_EQ(description->pid, getpid());
  EXPECT_EQ(description->cpus, 3u);
  EXPECT_EQ(description->memory_bytes, 64 * kMiB);
  EXPECT_EQ(description->memory_backing, "anon");
  EXPECT_EQ(description->started_ns, 5678);
  EXPECT_EQ(description->first_entry_ns, 1234);
  EXPECT_EQ(description->kernel, "/boot/vmlinuz");
  EXPECT_EQ(description->initrd, "");
  EXPECT_EQ(description->command_line, "console=ttyS0");
  ASSERT_EQ(description->devices.size(), 2u);
  EXPECT_EQ(description->devices[0].id, "root");
  EXPECT_EQ(std::get<std::string>(description->devices[0].facts[0].second), "/img");
  EXPECT_TRUE(std::get<bool>(description->devices[0].facts[1].second));
  EXPECT_TRUE(description->has_balloon);
}

TEST_F(ServerTest, PausesResumesAndStops) {
  auto client = Connect();
  EXPECT_TRUE(client->Pause().ok());
  EXPECT_EQ(machine_.state(), MachineState::kPaused);
  EXPECT_TRUE(client->Resume().ok());
  EXPECT_EQ(machine_.state(), MachineState::kRunning);
  EXPECT_TRUE(client->Stop(/*force=*/false).ok());
  EXPECT_EQ(machine_.state(), MachineState::kStopped);
  const absl::Status status = client->Resume();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(status.message(), "the machine is stopped");
}

TEST_F(ServerTest, ErrorsKeepTheirCodeAndText) {
  EXPECT_EQ(Connect()->Reset(), absl::InternalError("kernel vmlinuz is gone"));
}

TEST_F(ServerTest, OperationWithoutMemoryFailsAndNothingElseDoes) {
  auto client = Connect();
  machine_.StarveReset();
  const absl::Status status = client->Reset();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(client->Pause().ok());
}

// What would wait for memory that is not here yet is refused, and not carried out later; the balloon's target from when
// on it is not overwritten any more. The end is never refused.
TEST_F(ServerTest, MachineThatIsStillArrivingIsAskedForNothingButItsEnd) {
  std::atomic<bool> runs{false};
  bool gave_up = false;
  const auto allows = [&](Operation operation) {
    return operation == Operation::kStop || (runs && operation == Operation::kSetBalloon)
               ? absl::OkStatus()
               : absl::FailedPreconditionError(
                     absl::StrCat("cannot ", OperationName(operation), ": it is still arriving"));
  };
  server_->SetTarget({.name = "arriving",
                      .machine = &machine_,
                      .balloon = &balloon_,
                      .give_up = [&] { gave_up = true; },
                      .arrival = [] { return MoveStatus{.number = 1}; },
                      .arrival_allows = allows});
  auto client = Connect();
  for (const MonotonicTime deadline = MonotonicTime::Now() + kPatience; client->Describe()->name != "arriving";) {
    ASSERT_LT(MonotonicTime::Now(), deadline);
  }
  EXPECT_EQ(client->Pause().message(), "cannot pause: it is still arriving");
  EXPECT_EQ(client->Resume().message(), "cannot resume: it is still arriving");
  EXPECT_EQ(client->Reset().message(), "cannot reset: it is still arriving");
  EXPECT_EQ(client->SetBalloon(8 << 20, absl::ZeroDuration()).status().message(),
            "cannot set the balloon: it is still arriving");
  EXPECT_EQ(balloon_.Figures().target_bytes, 0u);
  EXPECT_TRUE(machine_.operations().empty());
  runs = true;
  EXPECT_TRUE(client->SetBalloon(8 << 20, absl::ZeroDuration()).ok());
  EXPECT_EQ(balloon_.Figures().target_bytes, 8u << 20);
  EXPECT_TRUE(client->Stop(/*force=*/false).ok());
  EXPECT_TRUE(gave_up);
  EXPECT_EQ(machine_.operations(), std::vector<std::string>{"stop"});
  EXPECT_EQ(client->SetBalloon(0, absl::ZeroDuration()).status().message(),
            "cannot set the balloon: the machine is stopped");
  server_->SetTarget({.name = "vm", .machine = &machine_});
}

// What anybody's monitor says reaches a terminal as text.
TEST_F(ServerTest, WordsOfTheServerAreClean) {
  constexpr char kEscape[] = "\x1b]0;gone\a\x1b[2J\r\n\xc2\x9b";
  constexpr char kClean[] = "?]0;gone??[2J???";
  MachineConfig config = Config();
  DiskConfig& disk = *config.all<DiskConfig>()[0];
  for (std::string* text : {&config.kernel_path, &config.initrd_path, &config.command_line, &disk.id, &disk.path}) {
    *text = kEscape;
  }
  FakeMachine hostile(config);
  hostile.SetResetError(kEscape);
  server_->SetTarget({.name = kEscape, .machine = &hostile, .arrival = [&] {
                        return MoveStatus{
                            .number = 1, .where = kEscape, .over = true, .result = absl::AbortedError(kEscape)};
                      }});
  auto client = Connect();
  absl::StatusOr<MachineDescription> said;
  for (const MonotonicTime deadline = MonotonicTime::Now() + kPatience; MonotonicTime::Now() < deadline;) {
    said = client->Describe();
    ASSERT_TRUE(said.ok()) << said.status();
    if (said->name != "vm") {
      break;
    }
  }
  for (const std::string& text :
       {said->name, said->kernel, said->initrd, said->command_line, said->devices.at(0).id,
        std::get<std::string>(said->devices.at(0).facts.at(0).second), said->arrival.where,
        std::string(said->arrival.result.message()), std::string(client->Reset().message())}) {
    EXPECT_EQ(text, kClean);
  }
  ASSERT_TRUE(client->StartWatching().ok());
  server_->Publish({MachineEvent::Kind::kReset, kEscape});
  const auto event = client->NextEvent();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->event.text, "?]0;gone??[2J?\n?") << "lines are the event's";
  server_->SetTarget({.name = "vm", .machine = &machine_});
  client = Connect();
  do {
    said = client->Describe();
    ASSERT_TRUE(said.ok()) << said.status();
  } while (said->name != "vm");
}

TEST_F(ServerTest, LongWordsOfTheServerAreCut) {
  machine_.SetResetError(std::string(20 << 10, 'x'));
  EXPECT_EQ(Connect()->Reset().message().size(), kMaxLongText);
}

TEST_F(ServerTest, UnknownMachineIsNamedWithWhatToDo) {
  const absl::Status status = ControlClient::ConnectToMachine(place_.base(), "other").status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "no machine named other")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "ferrite ps")) << status;
}

TEST_F(ServerTest, BlockedOperationHoldsUpNobodyElse) {
  machine_.HoldPause(true);
  absl::Status paused = absl::UnknownError("");
  Thread pausing = StartOrDie("pauser", [&] { paused = Connect()->Pause(); });
  auto client = Connect();
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (!machine_.pausing() && MonotonicTime::Now() < deadline) {
    EXPECT_TRUE(client->Describe().ok());
  }
  EXPECT_TRUE(machine_.pausing());
  EXPECT_TRUE(client->Describe().ok());
  EXPECT_TRUE(client->Balloon().ok());
  machine_.HoldPause(false);
  pausing.Join();
  EXPECT_TRUE(paused.ok()) << paused;
}

TEST_F(ServerTest, ClientHasADeadlineAndTheOperationGoesOn) {
  machine_.HoldPause(true);
  {
    auto client = ControlClient::ConnectToMachine(place_.base(), "vm", absl::Milliseconds(20));
    ASSERT_TRUE(client.ok());
    EXPECT_TRUE(absl::IsDeadlineExceeded((*client)->Pause()));
  }
  machine_.HoldPause(false);
  // Operations take turns: this one comes after the abandoned one.
  EXPECT_TRUE(Connect()->Pause().ok());
  EXPECT_EQ(machine_.state(), MachineState::kPaused);
}

TEST_F(ServerTest, BalloonIsSetAndWaitedFor) {
  auto client = Connect();
  auto figures = client->SetBalloon(16 * kMiB, kPatience);
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_EQ(figures->target_bytes, 16 * kMiB);
  EXPECT_EQ(figures->actual_bytes, 16 * kMiB);
  ASSERT_EQ(figures->statistics.size(), 1u);
  EXPECT_EQ(figures->statistics[0].first, "free-memory");
  EXPECT_TRUE(client->SetBalloon(0, absl::ZeroDuration()).ok());
  EXPECT_EQ(client->Balloon()->target_bytes, 0u);

  EXPECT_TRUE(absl::IsInvalidArgument(client->SetBalloon(65 * kMiB, absl::ZeroDuration()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->SetBalloon(4095, absl::ZeroDuration()).status()));
  EXPECT_EQ(client->Balloon()->target_bytes, 0u);

  balloon_.SetFrozen(true);
  const absl::Status late = client->SetBalloon(kMiB * 32, absl::Milliseconds(50)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late));
  EXPECT_TRUE(absl::StrContains(late.message(), "M of 32M at the deadline")) << late;
}

// Thousands of calls that wait, where there may be a few.
class WaitingCallsTest : public ServerTest {
 protected:
  static constexpr uint32_t kHourMs = 3'600'000;
  static constexpr size_t kCalls = 60;
  static constexpr size_t kClients = ControlServer::kMaxClients - 4;
  static constexpr size_t kClientsWithPlaces = ControlServer::kMaxAllBalloonWaits / ControlServer::kMaxBalloonWaits;

  void SetUp() override {
    ServerTest::SetUp();
    balloon_.SetFrozen(true);
  }
  RawClient& StartWaiting() {
    clients_.push_back(std::make_unique<RawClient>(place_.dir().socket_path()));
    for (size_t call = 0; call < kCalls; ++call) {
      clients_.back()->SetBalloon(16 * kMiB, kHourMs);
    }
    return *clients_.back();
  }
  // All of them but `waiting` are refused.
  static void ExpectRefused(RawClient& client, size_t waiting) {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    for (size_t i = 0; i < kCalls - waiting; ++i) {
      const auto answer = client.NextAnswer(deadline);
      ASSERT_TRUE(answer.has_value()) << "only " << i << " of " << kCalls << " are answered";
      ASSERT_TRUE(absl::IsResourceExhausted(answer->error)) << answer->error;
    }
  }
  void TakeAllPlaces() {
    for (size_t i = 0; i < kClientsWithPlaces; ++i) {
      ASSERT_NO_FATAL_FAILURE(ExpectRefused(StartWaiting(), ControlServer::kMaxBalloonWaits));
    }
  }
  absl::Status OneMore() { return Connect()->SetBalloon(16 * kMiB, absl::Milliseconds(1)).status(); }

  std::vector<std::unique_ptr<RawClient>> clients_;
};

TEST_F(WaitingCallsTest, AreFewAndTheRestIsRefusedAtOnce) {
  ASSERT_NO_FATAL_FAILURE(TakeAllPlaces());
  while (clients_.size() < kClients) {
    ASSERT_NO_FATAL_FAILURE(ExpectRefused(StartWaiting(), 0));
  }
  const absl::Status refused = OneMore();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "try again later")) << refused;
  // Figures are told all the same.
  EXPECT_TRUE(Connect()->Balloon().ok());
  // One look for all of them, every 20 ms.
  const uint64_t looks = balloon_.looks();
  const MonotonicTime start = MonotonicTime::Now();
  while (balloon_.looks() < looks + 10) {
    std::this_thread::yield();
  }
  EXPECT_GE(MonotonicTime::Now() - start, absl::Milliseconds(8 * 20));
}

TEST_F(WaitingCallsTest, HoldUpNeitherStopNorTheEnd) {
  // As when a driver reports all that it can, on a busy host.
  balloon_.SetCost(absl::Microseconds(300));
  while (clients_.size() < kClients) {
    StartWaiting();
  }
  // The last of the calls was read, and so were most of the others.
  ASSERT_NO_FATAL_FAILURE(ExpectRefused(*clients_.back(), 0));
  const MonotonicTime start = MonotonicTime::Now();
  EXPECT_TRUE(Connect()->Stop(/*force=*/false).ok());
  server_.reset();
  EXPECT_LT(MonotonicTime::Now() - start, kPatience);
}

TEST_F(WaitingCallsTest, EndWithTheirConnection) {
  ASSERT_NO_FATAL_FAILURE(TakeAllPlaces());
  EXPECT_TRUE(absl::IsResourceExhausted(OneMore()));
  clients_.clear();
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  absl::Status status = OneMore();
  while (absl::IsResourceExhausted(status) && MonotonicTime::Now() < deadline) {
    status = OneMore();
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(WaitingCallsTest, EndWhenTheClientGivesThemUp) {
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  RawClient client(place_.dir().socket_path());
  const uint32_t first = client.SetBalloon(16 * kMiB, kHourMs);
  for (size_t i = 1; i < ControlServer::kMaxBalloonWaits; ++i) {
    client.SetBalloon(16 * kMiB, kHourMs);
  }
  client.SetBalloon(16 * kMiB, kHourMs);
  auto answer = client.NextAnswer(deadline);
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(absl::IsResourceExhausted(answer->error)) << answer->error;
  client.GiveUp(first);
  do {
    client.GiveUp(answer->number);
    client.SetBalloon(16 * kMiB, 1);
    answer = client.NextAnswer(deadline);
    ASSERT_TRUE(answer.has_value());
  } while (absl::IsResourceExhausted(answer->error));
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer->error)) << answer->error;
}

TEST_F(WaitingCallsTest, AreRefusedWhenTheyAreForTooLong) {
  RawClient client(place_.dir().socket_path());
  client.SetBalloon(16 * kMiB, UINT32_MAX);
  const auto answer = client.NextAnswer(MonotonicTime::Now() + kPatience);
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(absl::IsInvalidArgument(answer->error)) << answer->error;
  EXPECT_EQ(Connect()->Balloon()->target_bytes, 0u);
}

class OperationsTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    machine_.HoldPause(true);
    running_ = std::make_unique<RawClient>(place_.dir().socket_path());
    running_->Pause();
    while (!machine_.pausing()) {
      std::this_thread::yield();
    }
  }
  void TearDown() override {
    machine_.HoldPause(false);
    ServerTest::TearDown();
  }

  // All that one client may ask for, and that was read.
  std::unique_ptr<RawClient> PauseOften() {
    auto client = std::make_unique<RawClient>(place_.dir().socket_path());
    for (size_t i = 0; i <= ControlServer::kMaxOperations; ++i) {
      client->Pause();
    }
    const auto one_too_many = client->NextAnswer(deadline_);
    EXPECT_TRUE(one_too_many.has_value() && absl::StrContains(one_too_many->error.message(), "of this client"))
        << (one_too_many.has_value() ? one_too_many->error : absl::UnknownError("no answer"));
    return client;
  }

  const MonotonicTime deadline_ = MonotonicTime::Now() + kPatience;
  std::unique_ptr<RawClient> running_;
};

TEST_F(OperationsTest, StopWaitsForTheOneThatRunsAndForNoOther) {
  std::vector<std::unique_ptr<RawClient>> clients;
  while (clients.size() < ControlServer::kMaxAllOperations / ControlServer::kMaxOperations) {
    clients.push_back(PauseOften());
  }
  RawClient client(place_.dir().socket_path());
  client.Pause();
  const auto refused = client.NextAnswer(deadline_);
  ASSERT_TRUE(refused.has_value());
  EXPECT_TRUE(absl::IsResourceExhausted(refused->error)) << refused->error;
  const uint32_t stop = client.Stop();
  client.Describe();
  ASSERT_TRUE(client.NextAnswer(deadline_).has_value()) << "`stop` was read by now";
  machine_.HoldPause(false);
  const auto stopped = client.NextAnswer(deadline_);
  ASSERT_TRUE(stopped.has_value());
  EXPECT_EQ(stopped->number, stop);
  EXPECT_TRUE(stopped->error.ok()) << stopped->error;
  const std::vector<std::string> operations = machine_.operations();
  ASSERT_GE(operations.size(), 2u);
  EXPECT_EQ(operations[0], "pause");
  EXPECT_EQ(operations[1], "stop");
}

TEST_F(OperationsTest, OfAClientThatIsGoneAreNotBegun) {
  PauseOften();
  // Its end comes before what comes later.
  ExpectServes();
  ExpectServes();
  machine_.HoldPause(false);
  // After whatever is left of its operations.
  EXPECT_TRUE(Connect()->Pause().ok());
  EXPECT_EQ(machine_.operations(), (std::vector<std::string>{"pause", "pause"}));
}

TEST_F(OperationsTest, DoNotBeginAtTheEnd) {
  const auto client = PauseOften();
  server_->BeginEnd();
  for (size_t i = 0; i < ControlServer::kMaxOperations; ++i) {
    const auto answer = client->NextAnswer(deadline_);
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->error, absl::UnavailableError("this machine is ending"));
  }
  EXPECT_EQ(Connect()->Pause(), absl::UnavailableError("this machine is ending"));
  machine_.HoldPause(false);
  const auto answer = running_->NextAnswer(deadline_);
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(answer->error.ok()) << answer->error;
  EXPECT_EQ(machine_.operations(), std::vector<std::string>{"pause"});
}

// Clients that ask without end, and read what they are told.
TEST_F(ServerTest, AFloodOfCallsHoldsUpNeitherOthersNorTheEnd) {
  constexpr int kFlooders = 4;
  constexpr int kCalls = 50;
  std::atomic<bool> flooding = true;
  std::vector<Thread> threads;
  for (int i = 0; i < kFlooders; ++i) {
    threads.push_back(StartOrDie("flood", [&] {
      while (flooding) {
        RawClient client(place_.dir().socket_path());
        for (int call = 0; call < kCalls && flooding; ++call) {
          client.Describe();
        }
        for (int call = 0; call < kCalls && flooding; ++call) {
          if (!client.NextAnswer(MonotonicTime::Now() + absl::Seconds(1)).has_value()) {
            break;
          }
        }
      }
    }));
  }
  for (int i = 0; i < 20; ++i) {
    ExpectServes();
  }
  const MonotonicTime start = MonotonicTime::Now();
  server_.reset();
  EXPECT_LT(MonotonicTime::Now() - start, kPatience);
  flooding = false;
}

TEST_F(ServerTest, ConsoleIsAttachedThroughAPassedDescriptor) {
  const std::string text = "hello";
  console_->Transmit({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  auto client = Connect();
  auto console = client->AttachConsole();
  ASSERT_TRUE(console.ok()) << console.status();
  client.reset();  // the console outlives the connection
  std::string got(text.size(), '\0');
  EXPECT_EQ(recv(console->get(), got.data(), got.size(), MSG_WAITALL), static_cast<ssize_t>(got.size()));
  EXPECT_EQ(got, text);
}

TEST_F(ServerTest, WatcherGetsEveryEventInOrder) {
  auto client = Connect();
  ASSERT_TRUE(client->StartWatching().ok());
  for (int i = 0; i < 50; ++i) {
    server_->Publish({MachineEvent::Kind::kBalloon, absl::StrCat(i)});
  }
  for (int i = 0; i < 50; ++i) {
    auto event = client->NextEvent();
    ASSERT_TRUE(event.ok()) << event.status();
    EXPECT_EQ(event->event.kind, MachineEvent::Kind::kBalloon);
    EXPECT_EQ(event->event.text, absl::StrCat(i));
    EXPECT_EQ(event->missed, 0u);
  }
}

TEST_F(ServerTest, LastEventArrivesBeforeTheEnd) {
  absl::Notification watching;
  Thread watcher = StartOrDie("watcher", [&] {
    auto client = Connect();
    ASSERT_TRUE(client->StartWatching().ok());
    watching.Notify();
    auto event = client->NextEvent();
    ASSERT_TRUE(event.ok()) << event.status();
    EXPECT_EQ(event->event.kind, MachineEvent::Kind::kStopped);
    EXPECT_EQ(client->NextEvent().status().code(), absl::StatusCode::kUnavailable);
  });
  watching.WaitForNotification();
  server_->Publish({MachineEvent::Kind::kStopped, "power-off"});
  server_.reset();
}

TEST_F(ServerTest, SlowWatcherMissesEventsIsToldAndHurtsNobody) {
  auto slow = Connect();
  ASSERT_TRUE(slow->StartWatching().ok());
  // A client on another thread: this thread's loop would serve the slow one, too.
  Thread other = StartOrDie("fast", [&] {
    auto fast = Connect();
    ASSERT_TRUE(fast->StartWatching().ok());
    for (int i = 0; i < 1000; ++i) {
      server_->Publish({MachineEvent::Kind::kReset, absl::StrCat(i)});
      ASSERT_TRUE(fast->NextEvent().ok());
    }
  });
  other.Join();
  uint64_t seen = 0;
  uint64_t missed = 0;
  std::string last;
  while (last != "999") {
    auto event = slow->NextEvent();
    ASSERT_TRUE(event.ok()) << event.status();
    ++seen;
    missed += event->missed;
    last = event->event.text;
  }
  EXPECT_EQ(seen + missed, 1000u);
  EXPECT_GT(missed, 0u);
}

TEST_F(ServerTest, AHundredClientsAreServed) {
  std::vector<std::unique_ptr<ControlClient>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(Connect());
    ASSERT_TRUE(clients.back()->StartWatching().ok() || i >= static_cast<int>(ControlServer::kMaxWatchers));
  }
  for (auto& client : clients) {
    EXPECT_TRUE(client->Describe().ok());
  }
}

TEST_F(ServerTest, NewClientTakesThePlaceOfTheOneThatIsIdleForTheLongest) {
  auto watcher = Connect();
  ASSERT_TRUE(watcher->StartWatching().ok());
  machine_.HoldPause(true);
  absl::Status paused = absl::UnknownError("");
  Thread pausing = StartOrDie("pauser", [&] { paused = Connect()->Pause(); });
  while (!machine_.pausing()) {
    std::this_thread::yield();
  }
  const auto idle = Connect();
  ASSERT_TRUE(idle->Describe().ok());
  std::vector<std::unique_ptr<ControlClient>> others;
  while (others.size() < ControlServer::kMaxClients - 3) {
    others.push_back(Connect());
    ASSERT_TRUE(others.back()->Describe().ok());
  }
  // All places are taken; another one is served all the same, and who is dropped is told the truth.
  ExpectServes();
  const absl::Status dropped = idle->Describe().status();
  EXPECT_EQ(dropped.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(dropped.message(), absl::StrCat("machine vm (pid ", getpid(), ") lives"))) << dropped;
  for (auto& other : others) {
    EXPECT_TRUE(other->Describe().ok());
  }
  // Who was at something is still there.
  machine_.HoldPause(false);
  pausing.Join();
  EXPECT_TRUE(paused.ok()) << paused;
  server_->Publish({MachineEvent::Kind::kReset, "x"});
  EXPECT_TRUE(watcher->NextEvent().ok());
}

TEST_F(ServerTest, ManyMoreClientsThanPlacesDoNotLockOutAnother) {
  std::vector<Fd> silent;
  for (size_t i = 0; i < 3 * ControlServer::kMaxClients; ++i) {
    silent.push_back(ConnectRaw());
  }
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (!Connect()->Describe().ok()) {
    ASSERT_LT(MonotonicTime::Now(), deadline);
  }
  ExpectDropped(silent.front());
}

TEST_F(ServerTest, ClientsThatAreAtSomethingLeaveRoomForAnother) {
  std::vector<std::unique_ptr<ControlClient>> watchers;
  while (watchers.size() < ControlServer::kMaxWatchers) {
    watchers.push_back(Connect());
    ASSERT_TRUE(watchers.back()->StartWatching().ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(Connect()->StartWatching()));
  machine_.HoldPause(true);
  balloon_.SetFrozen(true);
  // Each of the others waits for one thing, as long as there are places.
  std::vector<std::unique_ptr<RawClient>> others;
  const auto connect = [&](size_t count, const std::function<void(RawClient&)>& call) {
    for (size_t i = 0; i < count; ++i) {
      others.push_back(std::make_unique<RawClient>(place_.dir().socket_path()));
      call(*others.back());
      const uint32_t last = others.back()->Describe();
      const auto answer = others.back()->NextAnswer(MonotonicTime::Now() + kPatience);
      ASSERT_TRUE(answer.has_value());
      EXPECT_EQ(answer->number, last) << answer->error;
    }
  };
  connect(1, [](RawClient& client) { client.Pause(); });
  while (!machine_.pausing()) {
    std::this_thread::yield();
  }
  connect(ControlServer::kMaxAllOperations, [](RawClient& client) { client.Pause(); });
  connect(ControlServer::kMaxAllBalloonWaits, [](RawClient& client) { client.SetBalloon(16 * kMiB, 3'600'000); });
  connect(ControlServer::kMaxStops, [](RawClient& client) { client.Stop(); });
  while (watchers.size() + others.size() < ControlServer::kMaxClients) {
    connect(1, [](RawClient&) {});
  }
  ExpectServes();
  ExpectServes();
  server_->Publish({MachineEvent::Kind::kReset, "x"});
  for (auto& watcher : watchers) {
    EXPECT_TRUE(watcher->NextEvent().ok());
  }
  machine_.HoldPause(false);
}

TEST_F(ServerTest, EndOfTheMachineIsToldAsSuch) {
  auto client = Connect();
  ASSERT_TRUE(client->Describe().ok());
  server_.reset();
  place_.RemoveDir();
  EXPECT_EQ(client->Describe().status(), absl::UnavailableError("machine vm has ended"));
}

// The kernel closes the connections of a monitor that is killed before it drops its lock.
TEST_F(ServerTest, EndOfTheMachineIsToldWhenTheLockIsDroppedAMomentLater) {
  auto client = Connect();
  ASSERT_TRUE(client->Describe().ok());
  server_.reset();
  absl::Notification told;
  Thread kernel = StartOrDie("kernel", [&] {
    // Who does not wait has answered by then.
    (void)told.WaitForNotificationWithTimeout(absl::Milliseconds(100));
    place_.RemoveDir();
  });
  const absl::Status status = client->Describe().status();
  told.Notify();
  kernel.Join();
  EXPECT_EQ(status, absl::UnavailableError("machine vm has ended"));
}

TEST_F(ServerTest, ClientThatSaysNothingIsDropped) {
  const auto talker = Connect();
  ASSERT_TRUE(talker->Describe().ok());
  ExpectDropped(ConnectRaw());
  const Fd half = ConnectRaw();
  const uint32_t header[2] = {0, 100};
  ASSERT_EQ(send(half.get(), header, sizeof(header), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(header)));
  ExpectDropped(half);
  EXPECT_TRUE(talker->Describe().ok());
}

// R11: no byte from a client can crash the monitor or make it allocate without bound.
TEST_F(ServerTest, RubbishOnlyCostsItsOwnConnection) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const Fd fd = ConnectRaw();
    std::string rubbish(1 + random() % 300, '\0');
    for (char& c : rubbish) {
      c = static_cast<char>(random());
    }
    if (round % 2 == 0) {
      // A well-formed frame of one segment around rubbish.
      rubbish.resize(rubbish.size() / 8 * 8 + 8);
      const uint32_t header[2] = {0, static_cast<uint32_t>(rubbish.size() / 8)};
      (void)send(fd.get(), header, sizeof(header), MSG_NOSIGNAL);
    }
    (void)send(fd.get(), rubbish.data(), rubbish.size(), MSG_NOSIGNAL);
    ASSERT_EQ(shutdown(fd.get(), SHUT_WR), 0);
    ExpectDropped(fd);
  }
  ExpectServes();
}

TEST_F(ServerTest, HugeMessageIsRefusedByItsHeader) {
  const Fd fd = ConnectRaw();
  const uint32_t header[2] = {0, 0x0fff'ffff};  // one segment of 2 GiB
  ASSERT_EQ(send(fd.get(), header, sizeof(header), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(header)));
  ExpectDropped(fd);
  ExpectServes();
}

// kj's words have positions in the source and addresses of this process in them.
TEST_F(ServerTest, FailuresAreToldWithoutWordsOfTheLibrary) {
  const Fd fd = ConnectRaw();
  const auto send_message = [&](const std::function<void(capnp::rpc::Message::Builder)>& fill) {
    capnp::MallocMessageBuilder message;
    fill(message.initRoot<capnp::rpc::Message>());
    capnp::writeMessageToFd(fd.get(), message);
  };
  const auto call = [&](uint32_t number, uint32_t target) {
    send_message([&](capnp::rpc::Message::Builder message) {
      auto unknown = message.initCall();
      unknown.setQuestionId(number);
      unknown.initTarget().setImportedCap(target);
      unknown.setInterfaceId(capnp::typeId<control::Control>());
      unknown.setMethodId(999);
    });
  };
  send_message([](capnp::rpc::Message::Builder message) { message.initBootstrap().setQuestionId(0); });
  call(1, 0);
  {
    capnp::StreamFdMessageReader bootstrap(fd.get());
    capnp::StreamFdMessageReader reader(fd.get());
    const auto answer = reader.getRoot<capnp::rpc::Message>().getReturn();
    ASSERT_TRUE(answer.isException());
    EXPECT_EQ(answer.getAnswerId(), 1u);
    EXPECT_EQ(answer.getException().getType(), capnp::rpc::Exception::Type::UNIMPLEMENTED);
    EXPECT_EQ(answer.getException().getReason(), "it failed");
  }
  call(2, 77);
  capnp::StreamFdMessageReader reader(fd.get());
  const auto end = reader.getRoot<capnp::rpc::Message>();
  ASSERT_TRUE(end.isAbort());
  EXPECT_EQ(end.getAbort().getReason(), "it failed");
  ExpectDropped(fd);
}

TEST_F(ServerTest, DisconnectInTheMiddleHurtsNobody) {
  {
    const Fd fd = ConnectRaw();
    const uint32_t header[2] = {0, 100};
    ASSERT_EQ(send(fd.get(), header, sizeof(header), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(header)));
  }
  machine_.HoldPause(true);
  {
    auto client = ControlClient::ConnectToMachine(place_.base(), "vm", absl::Milliseconds(10));
    ASSERT_TRUE(client.ok());
    EXPECT_FALSE((*client)->Pause().ok());
  }
  ExpectServes();
  machine_.HoldPause(false);
  ExpectServes();
}

TEST_F(ServerTest, EndingAnswersWhoWaits) {
  machine_.HoldPause(true);
  absl::Status paused = absl::UnknownError("");
  Thread pausing = StartOrDie("pauser", [&] { paused = Connect()->Pause(); });
  while (!machine_.pausing()) {
    std::this_thread::yield();
  }
  Thread ending = StartOrDie("ender", [&] { server_.reset(); });
  machine_.HoldPause(false);
  ending.Join();
  pausing.Join();
  EXPECT_TRUE(paused.ok()) << paused;
}

}  // namespace
}  // namespace ferrite
