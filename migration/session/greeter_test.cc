#include "migration/session/greeter.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/protocol/messages.h"
#include "migration/session/greeter_rig.h"
#include "proto/machine.capnp.h"
#include "tests/fakes/scripted_agreement.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/wrapped_stream.h"

namespace ferrite::migration {
namespace {

// What did not happen by then does not happen.
constexpr absl::Duration kSoon = absl::Seconds(30);

void SayError(Stream& stream) { EXPECT_TRUE(SendControl(stream, message::Error{.message = "no"}).ok()); }

// Writes nothing before it is shut down.
class StuckStream : public WrappedStream {
 public:
  using WrappedStream::WrappedStream;

  TimedNotification& writes() { return writes_; }

  absl::Status WriteAll(std::span<iovec>) override {
    writes_.Notify();
    ended_.WaitForNotification();
    return absl::UnavailableError("shut down");
  }
  void Shutdown() override {
    if (!ended_.HasBeenNotified()) {
      ended_.Notify();
    }
    WrappedStream::Shutdown();
  }

 private:
  TimedNotification writes_;
  absl::Notification ended_;
};

class GreeterTest : public testing::Test {
 protected:
  // Says HELLO, and never reads what it is told: whoever tells it waits.
  std::unique_ptr<Stream> ComeAndBeStuck() {
    auto ends = *MakeStreamPair();
    auto stuck = std::make_unique<StuckStream>(std::move(ends.first));
    TimedNotification& writes = stuck->writes();
    rig_.Admit(std::move(stuck));
    rig_.SayHello(*ends.second);
    EXPECT_TRUE(writes.WaitFor(kSoon));
    return std::move(ends.second);
  }
  void AwaitNews(int count) {
    const TimedMutexLock lock(&mutex_);
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return news_ >= count; };
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&came), kSoon));
  }
  // Of who was dropped there may be news, too.
  void AwaitChosen() {
    for (int news = 1; !greeter_.Look().has_value() && !HasFailure(); ++news) {
      AwaitNews(news);
    }
  }
  void AwaitLoss() {
    const TimedMutexLock lock(&mutex_);
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return losses_ > 0; };
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&came), kSoon));
  }
  int losses() {
    const TimedMutexLock lock(&mutex_);
    return losses_;
  }

  TimedMutex mutex_;
  int news_ ABSL_GUARDED_BY(mutex_) = 0;
  int losses_ ABSL_GUARDED_BY(mutex_) = 0;
  const std::thread::id here_ = std::this_thread::get_id();
  GreeterRig rig_{{.most = 3,
                   .on_news =
                       [this] {
                         const TimedMutexLock lock(&mutex_);
                         ++news_;
                       },
                   .on_lost =
                       [this](const absl::Status&) {
                         EXPECT_NE(std::this_thread::get_id(), here_);
                         const TimedMutexLock lock(&mutex_);
                         ++losses_;
                       }}};
  Greeter& greeter_ = rig_.greeter();
};

TEST_F(GreeterTest, WhoEndsItsMoveDropsOnlyItself) {
  const auto stranger = rig_.ComeAndBeWelcomed();
  const auto source = rig_.ComeAndBeWelcomed();
  SayError(*stranger);
  AwaitNews(1);
  EXPECT_FALSE(greeter_.Look().has_value());
  rig_.SayMachine(*source);
  AwaitNews(2);
  EXPECT_TRUE(greeter_.Look().has_value());
  EXPECT_EQ(losses(), 0);
}

TEST_F(GreeterTest, WhoIsGoneIsNotChosen) {
  const auto source = rig_.ComeAndBeWelcomed();
  rig_.SayMachine(*source);
  SayError(*source);
  AwaitNews(2);
  EXPECT_FALSE(greeter_.Look().has_value());
  EXPECT_EQ(losses(), 0);
}

TEST_F(GreeterTest, LossOfTheChosenIsToldOnceOnItsThread) {
  const auto source = rig_.ComeAndBeWelcomed();
  rig_.SayMachine(*source);
  AwaitNews(1);
  std::optional<Greeter::Chosen> chosen = greeter_.Look();
  ASSERT_TRUE(chosen.has_value());
  ASSERT_EQ(chosen->machine.regions.size(), 1u);
  EXPECT_EQ(chosen->machine.regions[0].name, "ram");
  EXPECT_EQ(chosen->terms.id, kScriptedMove);
  SayError(*source);
  AwaitLoss();
  chosen.reset();
  EXPECT_EQ(losses(), 1);
}

// R11: who does not read what it is told keeps nobody waiting.
TEST_F(GreeterTest, OneThatDoesNotReadKeepsNobodyWaiting) {
  const auto stuck = ComeAndBeStuck();
  EXPECT_FALSE(greeter_.Look().has_value());
  const auto source = rig_.ComeAndBeWelcomed();
  rig_.SayMachine(*source);
  AwaitNews(1);
  EXPECT_TRUE(greeter_.Look().has_value());
}

// R11: nor those that are dropped, however many they are: what does not go at once is not said.
TEST_F(GreeterTest, NobodyWaitsForWhatIsSaidToWhoIsDropped) {
  constexpr int kStuck = 50;
  std::vector<std::unique_ptr<Stream>> peers;
  const MonotonicTime start = MonotonicTime::Now();
  for (int i = 0; i < kStuck; ++i) {
    peers.push_back(ComeAndBeStuck());
  }
  greeter_.SendAway(absl::CancelledError("cancelled here"));
  // A tenth of a second for each made 5 s.
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(3));
}

TEST_F(GreeterTest, WhoIsDroppedForItsOwnMistakeHearsThatOnce) {
  const auto stranger = rig_.Come();
  EXPECT_TRUE(stranger->WriteAll(std::vector<uint8_t>(64, 7)).ok());
  EXPECT_NE(Hear(*stranger).find("does not speak ferrite's move protocol"), std::string::npos);
  AwaitNews(1);
  EXPECT_FALSE(greeter_.Look().has_value());
  EXPECT_EQ(Hear(*stranger), "");
}

constexpr char kTooMany[] = "too many others came before you said what machine you bring";

// R11: who said HELLO and nothing else keeps nobody out.
TEST_F(GreeterTest, TheFirstThatSaidNothingMakesRoomThenTheFirst) {
  const auto first = rig_.ComeAndBeWelcomed();
  const auto silent = rig_.Come();
  const auto other = rig_.ComeAndBeWelcomed();
  const auto next = rig_.ComeAndBeWelcomed();
  EXPECT_EQ(Hear(*silent), kTooMany);
  // All have said HELLO.
  const auto source = rig_.ComeAndBeWelcomed();
  EXPECT_EQ(Hear(*first), kTooMany);
  rig_.SayMachine(*source);
  AwaitChosen();
}

// R11: many from one place push out each other, and nobody from elsewhere.
TEST_F(GreeterTest, CrowdFromOneOriginPushesOutItsOwn) {
  const auto source = rig_.ComeAndBeWelcomed("there");
  std::vector<std::unique_ptr<Stream>> crowd;
  for (int i = 0; i < 30; ++i) {
    crowd.push_back(rig_.ComeAndBeWelcomed("elsewhere"));
  }
  for (size_t i = 0; i < crowd.size() - 2; ++i) {
    EXPECT_EQ(Hear(*crowd[i]), kTooMany) << i;
  }
  rig_.SayMachine(*source);
  AwaitChosen();
}

TEST_F(GreeterTest, OneGoesForWantOfDescriptorsAsLongAsThereIsOne) {
  const auto first = rig_.ComeAndBeWelcomed();
  const auto silent = rig_.Come();
  EXPECT_TRUE(greeter_.LetGo());
  EXPECT_EQ(Hear(*silent), "no more files can be open at the destination, and others came");
  EXPECT_TRUE(greeter_.LetGo());
  EXPECT_EQ(Hear(*first), "no more files can be open at the destination, and others came");
  EXPECT_FALSE(greeter_.LetGo());
}

// Each of those that have said what machine they bring, one after the other: one may be refused.
TEST_F(GreeterTest, TheNextIsThereWhenOneWasTaken) {
  const auto first = rig_.ComeAndBeWelcomed();
  const auto second = rig_.ComeAndBeWelcomed();
  rig_.SayMachine(*first);
  rig_.SayMachine(*second);
  AwaitNews(2);
  const auto chosen = greeter_.Look();
  ASSERT_TRUE(chosen.has_value());
  EXPECT_EQ(chosen->who, "pair:b");
  EXPECT_TRUE(greeter_.Look().has_value());
  EXPECT_FALSE(greeter_.Look().has_value());
}

// R11: and an honest source needs no more. All that one may have is in it, with the longest paths that there are.
TEST_F(GreeterTest, MessagesHaveRoomForAMachineAndNoMore) {
  const auto source = rig_.ComeAndBeWelcomed();
  capnp::MallocMessageBuilder described;
  auto machine = described.initRoot<state::MachineDescription>();
  const std::string path(4096, 'p');
  for (auto device : machine.initDevices(20)) {
    device.setName("virtio-blk:a-name-of-20-letters");
  }
  for (auto disk : machine.initDisks(16)) {
    disk.setId("a-name-of-20-letters");
    disk.setPath(path);
  }
  machine.initCpuid(256);
  auto boot = machine.initBoot();
  boot.setKernelPath(path);
  boot.setInitrdPath(path);
  boot.setCommandLine(std::string(2047, 'c'));
  for (auto file : {boot.initKernel(), boot.initInitrd()}) file.setProblem(path + path);
  MachineSpec sent{.kind = "ferrite", .version = 1};
  sent.regions.assign(2, {.bytes = 4096, .page_bytes = 4096});
  const auto words = capnp::messageToFlatArray(described);
  sent.machine.assign(words.asBytes().begin(), words.asBytes().end());
  rig_.SayMachine(*source, sent);
  AwaitNews(1);
  EXPECT_TRUE(greeter_.Look().has_value());

  const auto stranger = rig_.ComeAndBeWelcomed();
  const auto frame = Encode(message::Machine{.spec = {.machine = std::vector<uint8_t>(kMaxGreetingBytes)}});
  EXPECT_TRUE(stranger->WriteAll(std::span(frame).first(kControlHeaderBytes)).ok());
  EXPECT_NE(Hear(*stranger).find("at most 262144 are allowed"), std::string::npos);
  AwaitNews(2);
  EXPECT_FALSE(greeter_.Look().has_value());
}

TEST_F(GreeterTest, WhoIsSentAwayHearsWhy) {
  const auto source = rig_.ComeAndBeWelcomed();
  const auto silent = rig_.Come();
  greeter_.SendAway(absl::CancelledError("cancelled here"));
  EXPECT_EQ(Hear(*source), "cancelled here");
  EXPECT_EQ(Hear(*silent), "cancelled here");
  EXPECT_EQ(Hear(*silent), "");
}

}  // namespace
}  // namespace ferrite::migration
