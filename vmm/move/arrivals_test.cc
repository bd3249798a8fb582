// Arrivals of a guest without KVM, from a source in the same process.
#include "vmm/move/arrivals.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "memory/guest_memory.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/session/source.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/relay.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  FERRITE_CHECK(value.ok());
  return *std::move(value);
}

// One machine here, which has run for a while, and a place to which it may move.
class ArrivalsTest : public testing::Test {
 protected:
  ArrivalsTest() {
    FERRITE_CHECK(mkdtemp(directory_.data()) != nullptr);
    guest_.Run();
    while (guest_.steps() < 8 * kWork.pages) {
      sched_yield();
    }
  }
  ~ArrivalsTest() override {
    relay_.reset();
    incoming_.reset();
    rmdir(directory_.c_str());
  }

  absl::StatusOr<std::unique_ptr<Incoming>> Receive() {
    auto listener = OrDie(
        migration::Listener::Create({.kind = migration::Address::Kind::kUnix, .path = absl::StrCat(directory_, "/s")}));
    relay_ = OrDie(migration::Relay::Create(absl::StrCat(directory_, "/r"), listener->address()));
    return Incoming::Start(there_, {.hold_for = kPatience}, migration::AcceptorOf(std::move(listener)), view_);
  }
  void StartReceiving() { incoming_ = OrDie(Receive()); }
  // Moves the machine there, by way of the relay.
  absl::Status Move(const migration::MoveOptions& options) {
    source_ = OrDie(migration::Source::Create(migration::AnyHost(), port_, options, nullptr));
    return source_->Run(migration::OpenAt(relay_->address()));
  }
  bool WaitForArrival() { return incoming_->WaitForArrival(end_.fd(), other_end_.fd()); }

  static constexpr FakeGuestWork kWork = {.first_page = 16, .pages = 512, .random = true};
  std::string directory_ = "/tmp/ferrite-arrivals-XXXXXX";
  std::unique_ptr<GuestMemory> memory_ = OrDie(GuestMemory::Create(4 << 20, MemoryBacking::kMemfd));
  FakeGuest guest_{*memory_, kWork};
  FakeSourcePort port_{*memory_, guest_};
  FakeDestination there_{MemoryBacking::kMemfd};
  const EventFd end_ = OrDie(EventFd::Create());
  const EventFd other_end_ = OrDie(EventFd::Create());
  const std::shared_ptr<ArrivalView> view_ = std::make_shared<ArrivalView>();
  std::unique_ptr<migration::Relay> relay_;
  std::unique_ptr<migration::Source> source_;
  std::unique_ptr<Incoming> incoming_;
};

TEST_F(ArrivalsTest, MachineArrivesAndIsShownFromTheBeginning) {
  EXPECT_EQ(view_->status().number, 0u) << "nothing is received yet";
  EXPECT_FALSE(view_->Allows(Operation::kPause).ok());
  StartReceiving();
  EXPECT_EQ(view_->status().number, 1u);
  EXPECT_FALSE(view_->status().over);
  there_.on_load = [&] {
    EXPECT_EQ(view_->Allows(Operation::kPause).message(), "cannot pause: the machine is still arriving here");
    EXPECT_EQ(view_->Allows(Operation::kSetBalloon).message(),
              "cannot set the balloon: the machine is still arriving here");
    EXPECT_TRUE(view_->Allows(Operation::kStop).ok());
    EXPECT_FALSE(incoming_->HasGuest());
  };
  EXPECT_EQ(Move({}), absl::OkStatus());
  EXPECT_TRUE(WaitForArrival());
  EXPECT_EQ(incoming_->result(), absl::OkStatus());
  EXPECT_TRUE(incoming_->RunsHere());
  EXPECT_TRUE(incoming_->HasGuest());
  EXPECT_TRUE(view_->Allows(Operation::kPause).ok());
  EXPECT_TRUE(view_->Allows(Operation::kSetBalloon).ok());
  const MoveStatus account = incoming_->Account();
  EXPECT_EQ(account.number, 1u);
  EXPECT_TRUE(account.over);
  EXPECT_EQ(account.result, absl::OkStatus());
  EXPECT_EQ(account.guest, GuestPlace::kHereRunning);
  EXPECT_EQ(account.progress.state, migration::MoveState::kCompleted);
  EXPECT_GT(account.report.data_pages, 0u);
  incoming_.reset();
  EXPECT_EQ(view_->status().number, 0u) << "the session that it showed is gone";
  EXPECT_FALSE(view_->Allows(Operation::kPause).ok());
  there_.guest()->Pause();
  EXPECT_EQ(there_.guest()->CheckAll(), 0u);
}

TEST_F(ArrivalsTest, EitherAskingEndsAWaitForNobody) {
  for (const EventFd* end : {&end_, &other_end_}) {
    StartReceiving();
    end->Signal();
    EXPECT_FALSE(WaitForArrival());
    EXPECT_EQ(incoming_->End(), Incoming::Ending::kCancelled);
    EXPECT_TRUE(absl::IsCancelled(incoming_->result())) << incoming_->result();
    EXPECT_FALSE(incoming_->RunsHere());
    incoming_->Finish();
    incoming_.reset();
    relay_.reset();
    end->Drain();
  }
}

// R3: a refused machine is no arrival, and whoever waited hears of the end.
TEST_F(ArrivalsTest, MoveThatFailsIsOverAndTheGuestIsNotHere) {
  StartReceiving();
  there_.failure = FakeFailure::kLoadState;
  EXPECT_FALSE(Move({}).ok());
  EXPECT_TRUE(WaitForArrival());
  EXPECT_FALSE(incoming_->result().ok());
  EXPECT_FALSE(incoming_->RunsHere());
  EXPECT_FALSE(incoming_->HasGuest());
  EXPECT_EQ(incoming_->Account().result, incoming_->result());
  EXPECT_TRUE(guest_.running());
}

// R4: the guest is here, and what needs memory that is not is refused; to end the monitor is not to cancel the move.
TEST_F(ArrivalsTest, GuestThatWasTakenOverIsNotCancelledWhenItsSourceIsLost) {
  StartReceiving();
  there_.on_run = [&] {
    EXPECT_TRUE(incoming_->HasGuest()) << "whatever is still waited for";
    relay_->Close();
    relay_->Cut();
  };
  Thread source = StartOrDie("source", [&] {
    EXPECT_FALSE(Move({.mode = migration::MoveMode::kPostcopy, .recover_for = absl::Milliseconds(1)}).ok());
  });
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (view_->status().progress.state != migration::MoveState::kPostcopyPaused && MonotonicTime::Now() < deadline) {
    sched_yield();
  }
  EXPECT_TRUE(incoming_->HasGuest());
  EXPECT_GT(view_->status().progress.granted_for, absl::ZeroDuration());
  EXPECT_TRUE(view_->Allows(Operation::kSetBalloon).ok());
  EXPECT_EQ(view_->Allows(Operation::kReset).message(), "cannot reset: the machine is still arriving here");
  EXPECT_FALSE(incoming_->IsOverWithin(absl::ZeroDuration())) << "the source may come back";
  end_.Signal();
  EXPECT_FALSE(WaitForArrival());
  EXPECT_EQ(incoming_->End(), Incoming::Ending::kTakenOver);
  EXPECT_TRUE(incoming_->IsOverWithin(kPatience)) << "nobody is waited for any more";
  EXPECT_FALSE(incoming_->result().ok());
  EXPECT_TRUE(incoming_->RunsHere());
  EXPECT_FALSE(incoming_->Account().result.ok());
  incoming_->Finish();
  EXPECT_TRUE(view_->Allows(Operation::kSetBalloon).ok());
  EXPECT_FALSE(view_->Allows(Operation::kPause).ok());
  source.Join();
}

}  // namespace
}  // namespace ferrite
