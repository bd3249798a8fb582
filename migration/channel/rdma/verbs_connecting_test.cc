#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/timed_mutex.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rdma/verbs_rig.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {
namespace {

using VerbsConnectingTest = VerbsTest;

TEST_P(VerbsConnectingTest, WhoAcceptsGetsWhoseGreetingItKnows) {
  const std::vector<std::string> greetings = {"the first", std::string("\0\1\0", 3), std::string(kMostGreeting, 'g'),
                                              ""};
  std::vector<std::unique_ptr<QueuePair>> sources(greetings.size());
  std::vector<Thread> threads;
  for (size_t i = 0; i < greetings.size(); i++) {
    threads.push_back(StartOrDie(absl::StrCat("connects-", i), [this, i, &greetings, &sources] {
      sources[i] = *source_->Connect(listener_->port(), greetings[i], kAllGranted, Soon(), cancel_);
    }));
  }
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 1, MemoryAccess::kLocal);
  std::vector<std::unique_ptr<QueuePair>> destinations(greetings.size());
  for (size_t i = greetings.size(); i-- > 0;) {
    destinations[i] = *listener_->Accept(greetings[i], kAllGranted, Soon(), cancel_);
  }
  threads.clear();
  for (size_t i = 0; i < greetings.size(); i++) {
    ASSERT_TRUE(destinations[i]->PostReceive(i, to.Local(0, 64)).ok());
    ASSERT_TRUE(sources[i]->PostSend(0, from.Local(0, 8 + i)).ok());
    const std::vector<Completion> received = Await(*destinations[i], 1);
    ASSERT_EQ(received.size(), 1u);
    EXPECT_EQ(received[0].bytes, 8 + i);
  }
}

TEST_P(VerbsConnectingTest, AcceptEndsAtItsDeadline) {
  const MonotonicTime begin = RealClock().Now();
  const auto accepted = listener_->Accept("x", {}, begin + absl::Milliseconds(100), cancel_);
  EXPECT_EQ(accepted.status().code(), absl::StatusCode::kDeadlineExceeded) << accepted.status();
  EXPECT_GE(RealClock().Now() - begin, absl::Milliseconds(100));
}

TEST_P(VerbsConnectingTest, AcceptEndsWhenItIsCancelled) {
  absl::Status status;
  Thread accepts = StartOrDie("accepts", [&] { status = listener_->Accept("x", {}, Soon(), cancel_).status(); });
  cancel_.Signal();
  accepts.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
}

TEST_P(VerbsConnectingTest, ConnectEndsAtItsDeadlineWhereNobodyAccepts) {
  const MonotonicTime begin = RealClock().Now();
  const auto connected = source_->Connect(listener_->port(), "x", {}, begin + absl::Milliseconds(300), cancel_);
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kDeadlineExceeded) << connected.status();
  // And nobody finds it afterwards.
  const auto accepted = listener_->Accept("x", {}, RealClock().Now() + absl::Milliseconds(100), cancel_);
  EXPECT_FALSE(accepted.ok());
}

TEST_P(VerbsConnectingTest, ConnectEndsWhenItIsCancelled) {
  absl::Status status;
  Thread connects =
      StartOrDie("connects", [&] { status = source_->Connect(listener_->port(), "x", {}, Soon(), cancel_).status(); });
  cancel_.Signal();
  connects.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
}

TEST_P(VerbsConnectingTest, ConnectFailsWhereNobodyListens) {
  const uint16_t port = listener_->port();
  listener_.reset();
  const auto connected = source_->Connect(port, "x", {}, Soon(), cancel_);
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kUnavailable) << connected.status();
}

TEST_P(VerbsConnectingTest, AListenerThatGoesRefusesWhoWaits) {
  absl::Status status;
  const MonotonicTime begin = RealClock().Now();
  Thread connects = StartOrDie("connects", [&] {
    status = source_->Connect(listener_->port(), "x", {}, begin + absl::Seconds(60), cancel_).status();
  });
  // It has come when another one does not find its own.
  EXPECT_FALSE(listener_->Accept("y", {}, RealClock().Now() + absl::Milliseconds(200), cancel_).ok());
  const uint16_t port = listener_->port();
  listener_.reset();
  connects.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status << port;
}

// R11: who comes and is not asked for takes no room for good. By a clock of the test's own.
TEST_P(VerbsConnectingTest, WhoIsNotAskedForIsRejectedInTheEnd) {
  FakeClock clock;
  const std::unique_ptr<Verbs> verbs = MakeVerbs(clock);
  const auto source = *verbs->Open(host_, Verbs::End::kThere, clock.Now() + absl::Hours(9), cancel_);
  const auto destination = *verbs->Open(host_, Verbs::End::kHere, clock.Now() + absl::Hours(9), cancel_);
  const auto listener = *destination->Listen();
  absl::Status status;
  TimedNotification returned;
  const Thread connects = StartOrDie("connects", [&] {
    status = source->Connect(listener->port(), "x", {}, clock.Now() + absl::Hours(9), cancel_).status();
    returned.Notify();
  });
  // It may have come only just now.
  for (int i = 0; i < 60 && !returned.WaitFor(absl::Milliseconds(300)); i++) {
    clock.Advance(absl::Seconds(11));
    EXPECT_FALSE(listener->Accept("y", {}, clock.Now(), cancel_).ok());
  }
  EXPECT_TRUE(returned.WaitFor(absl::ZeroDuration()));
  cancel_.Signal();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_P(VerbsConnectingTest, SoManyMayWaitAndNoMore) {
  constexpr size_t kMost = 64;
  TimedMutex mutex;
  size_t rejected = 0;
  std::vector<Thread> threads;
  for (size_t i = 0; i <= kMost; i++) {
    threads.push_back(StartOrDie(absl::StrCat("connects-", i), [&] {
      const absl::Status status = source_->Connect(listener_->port(), "x", {}, Soon(), cancel_).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      const TimedMutexLock lock(&mutex);
      rejected++;
    }));
  }
  const auto one_is = [&] { return rejected > 0; };
  {
    const TimedMutexLock lock(&mutex);
    EXPECT_TRUE(mutex.AwaitFor(absl::Condition(&one_is), absl::Seconds(20)));
    EXPECT_EQ(rejected, 1u);
  }
  listener_.reset();
}

TEST_P(VerbsConnectingTest, AGreetingHasItsBound) {
  const auto connected = source_->Connect(listener_->port(), std::string(kMostGreeting + 1, 'g'), {}, Soon(), cancel_);
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kInvalidArgument) << connected.status();
}

TEST_P(VerbsConnectingTest, RegistersBothWaysAndAgain) {
  const TestMemory once(*source_, 4, MemoryAccess::kRemoteRead, 1);
  const absl::StatusOr<std::unique_ptr<RegisteredMemory>> again =
      source_->Register(once.span(), MemoryAccess::kRemoteWrite);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->bytes().data(), once.data());
  EXPECT_NE((*again)->remote_key(), once.Remote(0).key);
}

TEST_P(VerbsConnectingTest, MemoryThatIsNotThereCannotBeRegistered) {
  Mapping gone = *Mapping::Create("memory of a test", 2 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_EQ(munmap(gone.data() + kPage, kPage), 0);
  const auto registered = source_->Register(gone.span(), MemoryAccess::kRemoteWrite);
  EXPECT_EQ(registered.status().code(), absl::StatusCode::kFailedPrecondition) << registered.status();
}

INSTANTIATE_TEST_SUITE_P(Verbs, VerbsConnectingTest, testing::ValuesIn(Places()), PlaceName);

}  // namespace
}  // namespace ferrite::migration
