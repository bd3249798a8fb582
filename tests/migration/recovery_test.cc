// Connections that are lost after the guest was handed over (R2, R4, docs/move.md). The guest proves them: each of its
// steps checks a page (R1).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "base/thread_maker.h"
#include "migration/api/move_options.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 1000;

void ExpectArrived(FakeMove& move, const FakeMoveResult& result) {
  ASSERT_NO_FATAL_FAILURE(migration::ExpectArrived(move, result, kSteps));
  EXPECT_TRUE(move.destination().locked) << "R8";
}

void ExpectIsBack(FakeMove& move, const FakeMoveResult& result) {
  EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
  EXPECT_TRUE(move.source_guest().running());
  EXPECT_TRUE(move.port().disks_held);
  EXPECT_EQ(move.port().inhibited, 0);
  EXPECT_FALSE(move.port().tracking);
  EXPECT_FALSE(move.destination().guest()->running()) << "R2";
}

// R4: wherever in the stream the connection breaks, the move goes on, and what is missing comes.
class CutTest : public testing::TestWithParam<MoveMode> {};

TEST_P(CutTest, MoveGoesOnWhereverTheStreamIsCut) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{100}, uint64_t{5000}, uint64_t{70000}, uint64_t{1} << 20,
                               uint64_t{9} << 20, uint64_t{20} << 20}) {
    SCOPED_TRACE(bytes);
    FakeMove move({.relay = true});
    move.destination().on_run = [&] { move.relay().CutAfter(bytes); };
    const FakeMoveResult result = move.Move({.mode = GetParam(), .channels = 2});
    ExpectArrived(move, result);
    EXPECT_LE(result.report.recoveries, 1u);
    if (GetParam() == MoveMode::kPostcopy) {
      EXPECT_EQ(result.report.recoveries, 1u);
      // R4, R6: what had arrived is not asked for again. What was on its way is: the kernel's buffers and the relay's.
      EXPECT_LE(result.report.data_pages, 8192 + 2048u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, CutTest, testing::Values(MoveMode::kPostcopy, MoveMode::kPrecopy),
                         [](const testing::TestParamInfo<MoveMode>& info) {
                           return info.param == MoveMode::kPostcopy ? "Postcopy" : "Precopy";
                         });

TEST(RecoveryTest, ConnectionMayBeLostManyTimes) {
  for (const char* landing : {"Memfd", "Huge"}) {
    FakeMove move({.landing = &LandingNamed(landing), .relay = true});
    // Slow enough that much is left to send when the guest runs there.
    const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 64 << 20},
                                            [&](Source&, const MoveProgress& progress) {
                                              if (progress.state == MoveState::kPostcopyActive) {
                                                move.relay().CutAfter(6 << 20);
                                              }
                                            });
    ExpectArrived(move, result);
    EXPECT_GE(result.report.recoveries, 3u);
  }
}

// A bit of a page is changed on its way behind the switchover: nobody sees it, the connection is dropped, and the page
// comes again (R1, R4).
TEST(FlippedBitTest, IsFoundAndThePageComesAgain) {
  for (const char* landing : {"Memfd", "Huge", "Small"}) {
    SCOPED_TRACE(landing);
    FakeMove move({.landing = &LandingNamed(landing), .relay = true});
    move.destination().on_run = [&] { move.relay().DamageAfter(2 << 20, Relay::Damage::kFlipAmongPages); };
    uint64_t flips = 0;
    const FakeMoveResult result =
        move.Move({.mode = MoveMode::kPostcopy}, nullptr, [&](Source&, const absl::Status& status) {
          flips = move.relay().damages();
          return status;
        });
    ExpectArrived(move, result);
    EXPECT_EQ(flips, 1u);
    EXPECT_GE(result.report.recoveries, 1u);
  }
}

// In the rounds the guest may have written the page while it left, and then it comes again. Else the guest stays (R3).
TEST(FlippedBitTest, OfARoundIsMendedOrTheGuestStays) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kAuto}) {
    FakeMove move({.relay = true});
    uint64_t flips = 0;
    const FakeMoveResult result = move.Move(
        {.mode = mode},
        [&, asked = false](Source&, const MoveProgress&) mutable {
          if (!std::exchange(asked, true)) {
            move.relay().DamageAfter(4 << 20, Relay::Damage::kFlipAmongPages);
          }
        },
        [&](Source&, const absl::Status& status) {
          flips = move.relay().damages();
          return status;
        });
    EXPECT_EQ(flips, 1u);
    if (result.source.ok()) {
      ExpectArrived(move, result);
    } else {
      ExpectIsBack(move, result);
      EXPECT_EQ(result.destination.code(), absl::StatusCode::kDataLoss) << result.destination;
      ExpectGuestGoesOn(move.source_guest(), kSteps);
    }
  }
}

// GRANT did not arrive: the destination has waited for it, and gets it when the connection is there again.
TEST(RecoveryTest, GrantThatWasLostIsSentAgain) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    FakeMove move({.relay = true});
    move.port().on_grant = [&, cut = false]() mutable {
      if (!std::exchange(cut, true)) {
        move.relay().Cut();
      }
    };
    const FakeMoveResult result = move.Move({.mode = mode});
    ExpectArrived(move, result);
    EXPECT_EQ(result.report.recoveries, 1u);
    EXPECT_GT(result.report.downtime, absl::ZeroDuration());
  }
}

TEST(RecoveryTest, WordThatAllIsThereIsSaidAgain) {
  FakeMove move({.relay = true});
  move.destination().on_arrived = [&] { move.relay().Cut(); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy});
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
}

// A GRANT that is sent again can be refused, like the first one: then the guest is the source's again.
TEST(RecoveryTest, GrantThatIsSentAgainMayBeRefused) {
  FakeMove move({.relay = true});
  move.port().on_grant = [&, cut = false]() mutable {
    if (!std::exchange(cut, true)) {
      move.destination().failure = FakeFailure::kAcquireDisks;
      move.relay().Cut();
    }
  };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy});
  EXPECT_FALSE(result.source.ok());
  ExpectIsBack(move, result);
  ExpectGuestGoesOn(move.source_guest(), kSteps);
}

// Virtual time, which passes as long as this lives while somebody waits for it: nothing that takes its time may be on.
class PassingTime {
 public:
  explicit PassingTime(FakeClock& clock)
      : thread_(StartOrDie("test-time", [this, &clock] {
          EXPECT_TRUE(clock.PassUntil([this] { return over_.load(); }, /*waiters=*/1, absl::Minutes(7)));
        })) {}
  ~PassingTime() { over_ = true; }

 private:
  std::atomic<bool> over_{false};
  const Thread thread_;
};

// With --recover-for 0 nothing is tried before the user says so, however near the destination is (R4).
TEST(NoSearchTest, IsLeftToTheUser) {
  FakeMove move({.relay = true});
  move.destination().on_run = [&] { move.relay().CutAfter(1 << 20); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .recover_for = absl::ZeroDuration()}, nullptr,
                                          [&](Source& source, const absl::Status& status) {
                                            EXPECT_FALSE(status.ok());
                                            EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
                                            EXPECT_EQ(source.report().recoveries, 0u);
                                            EXPECT_GT(source.progress().granted_for, absl::ZeroDuration());
                                            EXPECT_FALSE(move.source_guest().running()) << "R2";
                                            return source.Recover(move.OpenerAt(move.relay().address()));
                                          });
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
}

// Nobody can start a destination anew that has a guest: when its certificate has expired, or its CA is another one, it
// takes what is in its directory then (R4).
TEST(RenewedCertificateTest, DestinationIsFoundAgain) {
  FakeMove move({.tls = true, .relay = true});
  move.destination().on_run = [&] { move.relay().CutAfter(1 << 20); };
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPostcopy, .channels = 2, .recover_for = absl::ZeroDuration()}, nullptr,
                [&](Source& source, const absl::Status& status) {
                  EXPECT_FALSE(status.ok());
                  move.RenewCertificates();
                  return source.Recover(move.OpenerAt(move.relay().address()));
                });
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
}

// What has to be mended is told with the loss, not only in the log of the other host.
TEST(RenewedCertificateTest, WhyTheOtherSideIsNotBelievedIsTold) {
  FakeMove move({.tls = true, .relay = true});
  move.destination().on_run = [&] {
    // The source has read its own before.
    move.RenewCertificates();
    move.relay().CutAfter(1 << 20);
  };
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPostcopy, .recover_for = absl::Milliseconds(300)}, nullptr,
                [&](Source& source, const absl::Status& status) {
                  EXPECT_TRUE(absl::StrContains(status.message(), "then: post-copy: ")) << status;
                  EXPECT_TRUE(absl::StrContains(status.message(), ", and then: ")) << status;
                  EXPECT_TRUE(absl::StrContains(status.message(), "its certificate is not believed: ")) << status;
                  EXPECT_TRUE(absl::EndsWith(status.message(), "; this side stays paused and keeps the guest's memory"))
                      << status;
                  return source.Recover(move.OpenerAt(move.relay().address()));
                });
  ExpectArrived(move, result);
}

// A source looks for its destination for an hour, when there is nobody, and no longer.
class SearchTest : public testing::Test {
 protected:
  // As FakeMove::Move(); time passes from when the connection is lost to when the source has given up.
  FakeMoveResult MoveAndLook(const std::function<absl::Status(Source&, const absl::Status&)>& afterwards) {
    std::optional<PassingTime> search;
    std::optional<MonotonicTime> start;
    return move_.Move(
        {.mode = MoveMode::kPostcopy, .recover_for = absl::Hours(1)},
        [&](Source&, const MoveProgress& progress) {
          if (progress.state == MoveState::kPostcopyPaused && !start.has_value()) {
            start = clock_.Now();
            search.emplace(clock_);
          }
        },
        [&](Source& source, const absl::Status& status) {
          EXPECT_TRUE(start.has_value());
          search.reset();
          EXPECT_GE(clock_.Now() - *start, absl::Hours(1));
          EXPECT_FALSE(status.ok());
          EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
          EXPECT_FALSE(move_.source_guest().running()) << "R2";
          return afterwards(source, status);
        });
  }
  void Lose() {
    move_.relay().Close();
    move_.relay().Cut();
  }
  // What asked the destination to give the guest back is gone there: until then no other connection is taken, and
  // nobody lets the time pass after which the source tries again.
  void AwaitGone() {
    const auto is_gone = [](absl::string_view line) {
      return absl::StrContains(line, "dropped a connection") && !absl::StrContains(line, ": it ");
    };
    EXPECT_TRUE(host_.log().WaitForText([&](absl::string_view text) {
      const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
      return std::any_of(lines.begin(), lines.end(), is_gone);
    }));
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  FakeMove move_{{.relay = true, .host = host_.get()}};
};

// Neither side guesses: the guest runs nowhere until a person decides, and then in one place (R2).
TEST_F(SearchTest, DestinationThatIsGone) {
  move_.port().on_grant = [&] { Lose(); };
  const FakeMoveResult result = MoveAndLook([&](Source& source, const absl::Status& status) {
    // The relay takes connections, and says nothing: it may be a destination that hangs.
    EXPECT_EQ(source.TakeBack(/*force=*/false).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
    EXPECT_FALSE(move_.source_guest().running()) << "R2";
    EXPECT_TRUE(source.TakeBack(/*force=*/true).ok());
    return status;
  });
  ExpectIsBack(move_, result);
  EXPECT_EQ(result.destination_state, MoveState::kFailed) << result.destination;
  ExpectGuestGoesOn(move_.source_guest(), kSteps);
}

TEST(TakeBackTest, DestinationThatNeverGotTheGrantIsTold) {
  FakeMove move({.relay = true});
  move.port().on_grant = [&, cut = false]() mutable {
    if (!std::exchange(cut, true)) {
      move.relay().Cut();
    }
  };
  const FakeMoveResult result = move.Move(
      {.mode = MoveMode::kPostcopy, .recover_for = absl::Seconds(30)},
      [&](Source& source, const MoveProgress& progress) {
        if (progress.state == MoveState::kPostcopyPaused) {
          source.Leave();
        }
      },
      [&](Source& source, const absl::Status& status) {
        EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
        EXPECT_TRUE(source.TakeBack(/*force=*/false).ok());
        return status;
      });
  ExpectIsBack(move, result);
  EXPECT_NE(result.destination.message().find("took the guest back"), absl::string_view::npos) << result.destination;
  ExpectGuestGoesOn(move.source_guest(), kSteps);
}

TEST_F(SearchTest, DestinationThatHasTheGuestKeepsIt) {
  move_.destination().on_run = [&] { Lose(); };
  const FakeMoveResult result = MoveAndLook([&](Source& source, const absl::Status&) {
    move_.relay().Open();
    const absl::Status refused = source.TakeBack(/*force=*/true);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_FALSE(move_.source_guest().running()) << "R2";
    EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
    AwaitGone();
    return source.Recover(move_.OpenerAt(move_.relay().address(), clock_));
  });
  ExpectArrived(move_, result);
}

// What is looked for at a wrong address is not lost at the right one (R2).
TEST_F(SearchTest, AtAWrongAddressChangesNothing) {
  move_.destination().on_run = [&] { Lose(); };
  const FakeMoveResult result = MoveAndLook([&](Source& source, const absl::Status&) {
    {
      const PassingTime passing(clock_);
      EXPECT_FALSE(source.Recover(OpenAt({.kind = Address::Kind::kUnix, .path = "/tmp/ferrite-nobody"}, clock_)).ok());
    }
    EXPECT_EQ(source.where(), move_.relay().address().ToString());
    EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
    move_.relay().Open();
    EXPECT_EQ(source.TakeBack(/*force=*/false).code(), absl::StatusCode::kFailedPrecondition) << "R2";
    AwaitGone();
    return source.Recover(move_.OpenerAt(move_.relay().address(), clock_));
  });
  ExpectArrived(move_, result);
}

// Memory that the destination cannot fill: pages that its guest does not use, of which the kernel takes none while they
// are closed.
class ClosedMemory {
 public:
  // For the host of the move: keeps the userfaultfds, to close memory by the one that has it.
  UserfaultOpener Opener() {
    return [this]() -> absl::StatusOr<Fd> {
      absl::StatusOr<Fd> fd = OpenUserfault();
      if (fd.ok()) {
        userfaults_.emplace_back(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
      }
      return fd;
    };
  }
  void Close(GuestMemory& memory) {
    const std::span<uint8_t> all = memory.regions()[0]->guest_mapping();
    range_ = {.start = reinterpret_cast<uint64_t>(all.data()) + kFirst * kPageBytes, .len = kCount * kPageBytes};
    closed_by_ = std::find_if(userfaults_.begin(), userfaults_.end(), [this](const Fd& userfault) {
      return ioctl(userfault.get(), UFFDIO_UNREGISTER, &range_) == 0;
    });
    EXPECT_NE(closed_by_, userfaults_.end());
  }
  void Open() {
    uffdio_register request{.range = range_, .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
    EXPECT_EQ(ioctl(closed_by_->get(), UFFDIO_REGISTER, &request), 0);
  }

  static constexpr uint64_t kFirst = 12'000;
  static constexpr uint64_t kCount = 64;

 private:
  std::vector<Fd> userfaults_;
  std::vector<Fd>::iterator closed_by_;
  uffdio_range range_{};
};

// What the destination's own memory lacks does not come back with a connection: it is tried again for a while, and
// then a person decides. Nothing is lost by that.
TEST(LocalErrorTest, EndsTheMoveAfterAWhileAndCanBeMended) {
  ClosedMemory closed;
  KeptLog log;
  ThreadMaker threads;
  const Host host{.log = log, .threads = threads, .clock = RealClock(), .open_userfault = closed.Opener()};
  FakeMove move({.landing = &LandingNamed("Memfd"), .host = host});
  const auto data = move.memory().regions()[0]->guest_mapping().subspan(ClosedMemory::kFirst * kPageBytes,
                                                                        ClosedMemory::kCount * kPageBytes);
  std::fill(data.begin(), data.end(), 0x5a);
  // From before anything fails.
  MonotonicTime closed_at = MonotonicTime::InfiniteFuture();
  move.destination().on_run = [&] {
    closed_at = MonotonicTime::Now();
    closed.Close(*move.destination().memory());
  };
  const absl::Duration limit = absl::Milliseconds(500);
  const FakeMoveResult result = move.Move(
      {.mode = MoveMode::kPostcopy, .recover_for = limit}, nullptr, [&](Source& source, const absl::Status& status) {
        EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
        EXPECT_GE(MonotonicTime::Now() - closed_at, limit);
        EXPECT_NE(status.message().find("the destination says: post-copy: memory ram-low (memfd): "),
                  absl::string_view::npos)
            << status;
        EXPECT_NE(status.message().find("UFFDIO_COPY"), absl::string_view::npos) << status;
        // A try that brought something gives more time, so on a busy host they are more; it used to be tried for ever.
        EXPECT_LE(source.report().recoveries, 100u);
        closed.Open();
        return source.Recover(move.OpenerAt({.kind = Address::Kind::kUnix, .path = source.where().substr(5)}));
      });
  ExpectArrived(move, result);
  const auto arrived = move.destination().memory()->regions()[0]->guest_mapping().subspan(
      ClosedMemory::kFirst * kPageBytes, ClosedMemory::kCount * kPageBytes);
  EXPECT_TRUE(std::equal(arrived.begin(), arrived.end(), data.begin())) << "R4";
}

// The same before the guest was handed over: it stays, and the words say whose memory it was.
TEST(LocalErrorTest, BeforeGrantIsToldAtTheSource) {
  if (IsTlsWanted()) {
    GTEST_SKIP() << "the process copies to it by itself: memory that it may not touch at all is nothing that happens "
                    "to it, and pages that are lost are tls_stream_writing_test's";
  }
  FakeMove move({.landing = &LandingNamed("Huge")});
  bool closed = false;
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy}, [&](Source&, const MoveProgress& progress) {
    if (progress.state == MoveState::kActive && !closed) {
      const auto& region = move.destination().memory()->regions()[0];
      EXPECT_EQ(mprotect(region->guest_mapping().data() + 4096 * kPageBytes, 64 * kPageBytes, PROT_NONE), 0);
      closed = true;
    }
  });
  ExpectIsBack(move, result);
  // What of the move it was in is a matter of which of its threads came first.
  EXPECT_TRUE(absl::StrContains(result.source.message(), "the destination says: ")) << result.source;
  EXPECT_TRUE(absl::StrContains(result.source.message(), "memory ram-low (anon): ")) << result.source;
  ExpectGuestGoesOn(move.source_guest(), kSteps);
}

// A state whose loading waits for a page does not wait for a source that is gone.
TEST(LoadTest, ConnectionThatBreaksWhileTheStateIsLoaded) {
  FakeMove move({.relay = true});
  bool looked = false;
  move.destination().on_load = [&] {
    move.relay().Close();
    move.relay().Cut();
    const auto memory = move.destination().memory()->regions()[0]->guest_mapping();
    // Some of these pages cannot have come yet.
    for (uint64_t page = 256; page < 256 + 8192; ++page) {
      (void)*reinterpret_cast<volatile uint8_t*>(memory.data() + page * kPageBytes);
    }
    looked = true;
  };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy});
  EXPECT_TRUE(looked);
  EXPECT_FALSE(result.source.ok());
  ExpectIsBack(move, result);
  EXPECT_TRUE(result.destination_state == MoveState::kFailed || result.destination_state == MoveState::kCancelled);
  ExpectGuestGoesOn(move.source_guest(), kSteps);
}

}  // namespace
}  // namespace ferrite::migration
