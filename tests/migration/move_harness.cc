#include "tests/migration/move_harness.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/thread.h"
#include "migration/channel/rdma/ibverbs.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/at_once.h"
#include "tests/fakes/channel_kinds.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "test set-up: %s\n", std::string(value.status().message()).c_str());
    std::abort();
  }
  return *std::move(value);
}

}  // namespace

bool IsTlsWanted() { return std::getenv("FERRITE_TLS") != nullptr; }

bool IsRdmaWanted() { return std::getenv("FERRITE_RDMA") != nullptr; }

bool IsEachCasePlayed() { return std::getenv("FERRITE_EVERY") == nullptr; }

std::string RdmaDevice() {
  const char* const address = std::getenv("FERRITE_TEST_RDMA");
  return address == nullptr ? "" : address;
}

void ForEachCase(uint64_t count, const std::function<void(uint64_t)>& play) {
  uint64_t every = 1;
  FERRITE_CHECK(IsEachCasePlayed() || (absl::SimpleAtoi(std::getenv("FERRITE_EVERY"), &every) && every > 0));
  ForEachAtOnce((count + every - 1) / every, [&](uint64_t index) { play(index * every); });
}

FakeMove::FakeMove(const FakeMoveSetup& setup)
    : setup_(setup),
      landing_(setup.landing != nullptr ? *setup.landing : LandingOfTest()),
      landing_host_(landing_, setup.landing_bytes != 0 ? setup.landing_bytes : setup.bytes) {
  // Short: a socket's path has 107 bytes.
  char name[] = "/tmp/ferrite-move-XXXXXX";
  FERRITE_CHECK(mkdtemp(name) != nullptr);
  directory_ = name;
  if (setup.tls && !setup.pair) {
    tls_ = std::make_unique<TlsPlace>();
  }
  if (setup.rdma && !setup.pair && !setup.handed_in) {
    if (RdmaDevice().empty()) {
      fabric_ = std::make_unique<RdmaFabric>();
    } else {
      device_ = std::make_unique<CutVerbs>(OrDie(LoadIbverbs(RealClock(), threads_)));
    }
  }
  memory_ = OrDie(GuestMemory::Create(setup.bytes, setup.source_backing));
  guest_ = std::make_unique<FakeGuest>(*memory_, setup.work);
  port_ = std::make_unique<FakeSourcePort>(*memory_, *guest_);
  destination_ = std::make_unique<FakeDestination>(landing_.backing);
  destination_->thp = landing_.thp;
  guest_->Run();
  // It has been nearly everywhere before the move begins.
  while (guest_->steps() < 8 * setup.work.pages) {
    sched_yield();
  }
}

FakeMove::~FakeMove() {
  // A guest that waits for a page that never comes is woken by the end of the session.
  session_.reset();
  rmdir(directory_.c_str());
}

Verbs* FakeMove::verbs() const {
  if (device_ != nullptr) {
    return device_.get();
  }
  return fabric_.get();
}

PairRendezvous FakeMove::Meet() {
  if (setup_.pair) {
    return OrDie(MakePair(setup_.host.clock));
  }
  if (setup_.handed_in) {
    return tls_ != nullptr ? MeetOverSocketsIn(tls_->source(), tls_->destination()) : MeetOverSockets();
  }
  Address address;
  if (device_ != nullptr) {
    address = {.kind = Address::Kind::kTcp, .host = RdmaDevice(), .port = "0", .path = ""};
  } else if (setup_.tcp) {
    address = {.kind = Address::Kind::kTcp, .host = "127.0.0.1", .port = "0", .path = ""};
  } else {
    address = {.kind = Address::Kind::kUnix, .host = "", .port = "", .path = absl::StrCat(directory_, "/socket")};
  }
  std::unique_ptr<Listener> listener = OrDie(Listener::Create(address));
  Address there = listener->address();
  if (setup_.relay) {
    relay_ = OrDie(Relay::Create(absl::StrCat(directory_, "/relay"), there));
    there = relay_->address();
  }
  if (verbs() != nullptr) {
    return {
        .opener = OpenerAt(there, setup_.host.clock),
        .acceptor = OrDie(RdmaAcceptor::Create(std::move(listener), {}, *verbs(), setup_.rdma_options, setup_.host))};
  }
  return {.opener = OpenerAt(there, setup_.host.clock),
          .acceptor = AcceptorOf(std::move(listener), {.security = tls_ != nullptr ? tls_->destination() : nullptr},
                                 setup_.host)};
}

std::shared_ptr<ChannelOpener> FakeMove::OpenerAt(const Address& address, const Clock& clock) const {
  if (verbs() != nullptr) {
    return OpenRdmaAt(address, *verbs(), setup_.rdma_options, clock);
  }
  return OpenAt(address, clock, tls_ != nullptr ? tls_->source() : nullptr);
}

void FakeMove::RenewCertificates() {
  const TestCa another("another");
  another.WriteCertificate(tls_->directory());
  another.Issue(tls_->directory(), "server");
  another.Issue(tls_->directory(), "client");
}

FakeMoveResult FakeMove::Move(const MoveOptions& options,
                              const std::function<void(Source&, const MoveProgress&)>& during,
                              const std::function<absl::Status(Source&, const absl::Status&)>& afterwards) {
  FakeMoveResult result;
  PairRendezvous place = setup_.wrap ? setup_.wrap(Meet()) : Meet();
  session_ = OrDie(
      Destination::Create(setup_.host, *destination_, {.silence = options.silence, .hold_for = options.recover_for}));
  Source* running = nullptr;
  const std::unique_ptr<Source> source =
      OrDie(Source::Create(setup_.host, *port_, options, [&](const MoveProgress& progress) {
        if (during) {
          during(*running, progress);
        }
      }));
  running = source.get();
  const int accepted_before = destination_->accepted;
  Thread receiver = StartOrDie("test-receiver", [&] {
    result.destination = session_->Run(*place.acceptor);
    if (!result.destination.ok() && session_->state() != MoveState::kPostcopyPaused) {
      // Its monitor ends, and nobody waits to be let in.
      place.acceptor.reset();
    }
  });
  // An exception, which should not come out of a move, fails the test; it does not leave it waiting.
  absl::Cleanup end = [this] {
    (void)session_->Cancel();
    session_->Leave();
  };
  result.source = source->Run(place.opener);
  if (afterwards) {
    result.source = afterwards(*source, result.source);
  }
  std::move(end).Cancel();
  if (!result.source.ok()) {
    // It may still wait for a source: for one at all, or for this one to come back. Otherwise it ends by itself, with
    // the source's own word of why, which a cancel might be faster than.
    if (destination_->accepted == accepted_before) {
      (void)session_->Cancel();
    }
    session_->Leave();
  }
  receiver.Join();
  result.source_state = source->state();
  result.destination_state = session_->state();
  result.report = source->report();
  relay_.reset();
  return result;
}

void ExpectOneRunner(FakeMove& move, const FakeMoveResult& result, uint64_t steps) {
  FakeGuest* const there = move.destination().guest();
  const bool runs_there = there != nullptr && there->running();
  ASSERT_NE(move.source_guest().running(), runs_there)
      << "R2: source " << result.source << ", destination " << result.destination;
  if (runs_there) {
    EXPECT_EQ(result.source_state, MoveState::kCompleted) << result.source;
    EXPECT_EQ(result.destination_state, MoveState::kCompleted) << result.destination;
  } else {
    EXPECT_TRUE(result.source_state == MoveState::kFailed || result.source_state == MoveState::kCancelled)
        << "R3: " << result.source;
    EXPECT_TRUE(move.port().disks_held);
  }
  ExpectGuestGoesOn(runs_there ? *there : move.source_guest(), steps);
}

void ExpectArrived(FakeMove& move, const FakeMoveResult& result, uint64_t steps) {
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  ASSERT_EQ(result.source_state, MoveState::kCompleted);
  EXPECT_FALSE(move.port().moved_to.empty()) << "R10";
  EXPECT_EQ(move.destination().inhibited, 0) << "R8";
  ExpectOneRunner(move, result, steps);
}

void ExpectGuestGoesOn(FakeGuest& guest, uint64_t steps) {
  ASSERT_TRUE(guest.running());
  guest.AwaitSteps(steps);
  guest.Pause();
  EXPECT_EQ(guest.errors(), 0u) << "R1";
  EXPECT_EQ(guest.CheckAll(), 0u) << "R1";
}

}  // namespace ferrite::migration
