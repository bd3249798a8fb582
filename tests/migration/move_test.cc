// Whole moves between fake machines. The guest proves them: each of its steps checks a page (R1).
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "base/thread_class.h"
#include "base/thread_maker.h"
#include "migration/api/host.h"
#include "migration/api/move_options.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/test_host.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

void ExpectMoved(FakeMove& move, const FakeMoveResult& result) {
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  EXPECT_EQ(result.source_state, MoveState::kCompleted);
  EXPECT_EQ(result.destination_state, MoveState::kCompleted);
  EXPECT_FALSE(move.source_guest().running()) << "R2";
  EXPECT_FALSE(move.port().moved_to.empty()) << "R10";
  EXPECT_TRUE(move.port().grant_recorded);
  EXPECT_FALSE(move.port().disks_held);
  FakeDestination& there = move.destination();
  ASSERT_NE(there.guest(), nullptr);
  EXPECT_TRUE(there.disks_held);
  EXPECT_FALSE(there.locked_while_receiving) << "R8";
  EXPECT_TRUE(there.locked) << "R8";
  EXPECT_EQ(there.inhibited, 0) << "R8";
  // It works on after the move, and everything is there.
  EXPECT_GE(there.guest()->steps(), move.source_guest().steps());
  ExpectGuestGoesOn(*there.guest(), 1000);
}

void ExpectStayed(FakeMove& move, const FakeMoveResult& result) {
  EXPECT_FALSE(result.source.ok());
  EXPECT_TRUE(result.source_state == MoveState::kFailed || result.source_state == MoveState::kCancelled)
      << MoveStateName(result.source_state);
  EXPECT_TRUE(move.source_guest().running()) << "R3: " << result.source;
  EXPECT_TRUE(move.port().disks_held);
  EXPECT_FALSE(move.port().tracking);
  EXPECT_EQ(move.port().inhibited, 0);
  EXPECT_EQ(move.port().throttle, 0);
  EXPECT_TRUE(move.destination().guest() == nullptr || !move.destination().guest()->running()) << "R2";
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    EXPECT_FALSE(absl::StartsWith(name, "mig-page") || absl::StartsWith(name, "mig-urgent") ||
                 absl::StartsWith(name, "mig-src"))
        << name << ": threads are not kept until the next move";
  }
}

constexpr FakeGuestWork kFewPages = {.first_page = 256, .pages = 16, .random = true};

struct Kind {
  const char* name;
  MoveMode mode;
  MemoryBacking source;
  const char* landing;
  enum { kUnix, kTcp, kPair, kHandedIn, kTls } over;
  int channels;
  bool random;
};

class WholeMoveTest : public testing::TestWithParam<Kind> {};

TEST_P(WholeMoveTest, GuestFindsAllItsMemory) {
  const Kind& kind = GetParam();
  FakeMove move({.source_backing = kind.source,
                 .landing = &LandingNamed(kind.landing),
                 .work = {.first_page = 256, .pages = 8192, .random = kind.random},
                 .tcp = kind.over == Kind::kTcp || kind.over == Kind::kTls,
                 .pair = kind.over == Kind::kPair,
                 .handed_in = kind.over == Kind::kHandedIn,
                 .tls = kind.over == Kind::kTls || IsTlsWanted()});
  const FakeMoveResult result = move.Move({.mode = kind.mode, .channels = kind.channels});
  ExpectMoved(move, result);
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  EXPECT_GT(result.report.skipped_pages, 0u);
  if (kind.mode == MoveMode::kPostcopy) {
    EXPECT_TRUE(result.report.postcopy);
    // Each page goes once; but one that was skipped as never touched may be touched before the guest stops.
    EXPECT_LE(result.report.resent_pages, 64u) << "R6";
    EXPECT_NEAR(static_cast<double>(result.report.data_pages + result.report.zero_pages + result.report.skipped_pages),
                16384, 64);
  }
  if (kind.mode == MoveMode::kPrecopy) {
    EXPECT_FALSE(result.report.postcopy);
    EXPECT_EQ(result.report.faults, 0u);
  }
}

constexpr MemoryBacking kMemfd = MemoryBacking::kMemfd;
constexpr MemoryBacking kAnon = MemoryBacking::kAnonymous;

INSTANTIATE_TEST_SUITE_P(
    All, WholeMoveTest,
    testing::Values(Kind{"PrecopyUnix", MoveMode::kPrecopy, kMemfd, "Memfd", Kind::kUnix, 1, true},
                    Kind{"PrecopyTcp", MoveMode::kPrecopy, kMemfd, "Memfd", Kind::kTcp, 1, false},
                    Kind{"PrecopyFourChannels", MoveMode::kPrecopy, kMemfd, "Memfd", Kind::kUnix, 4, true},
                    Kind{"PrecopyHuge", MoveMode::kPrecopy, kAnon, "Huge", Kind::kUnix, 1, true},
                    Kind{"PrecopySmall", MoveMode::kPrecopy, kMemfd, "Small", Kind::kTcp, 4, true},
                    Kind{"PostcopyUnix", MoveMode::kPostcopy, kMemfd, "Memfd", Kind::kUnix, 1, true},
                    Kind{"PostcopyTcp", MoveMode::kPostcopy, kMemfd, "Memfd", Kind::kTcp, 1, true},
                    Kind{"PostcopySequential", MoveMode::kPostcopy, kMemfd, "Huge", Kind::kTcp, 1, false},
                    Kind{"PostcopyFourChannels", MoveMode::kPostcopy, kMemfd, "Memfd", Kind::kTcp, 4, true},
                    Kind{"PostcopyHuge", MoveMode::kPostcopy, kAnon, "Huge", Kind::kTcp, 1, true},
                    Kind{"PostcopyWithoutMove", MoveMode::kPostcopy, kMemfd, "HugeWithoutMove", Kind::kUnix, 2, true},
                    Kind{"AutoUnix", MoveMode::kAuto, kMemfd, "Memfd", Kind::kUnix, 1, true},
                    Kind{"AutoTcp", MoveMode::kAuto, kMemfd, "Huge", Kind::kTcp, 1, true},
                    Kind{"AutoAnonymous", MoveMode::kAuto, kAnon, "Memfd", Kind::kTcp, 2, true},
                    Kind{"PrecopyTls", MoveMode::kPrecopy, kMemfd, "Memfd", Kind::kTls, 4, true},
                    Kind{"PostcopyTls", MoveMode::kPostcopy, kMemfd, "Small", Kind::kTls, 1, true},
                    Kind{"PostcopyTlsHuge", MoveMode::kPostcopy, kAnon, "Huge", Kind::kTls, 2, true},
                    Kind{"AutoTls", MoveMode::kAuto, kAnon, "Memfd", Kind::kTls, 2, true},
                    Kind{"PrecopyPair", MoveMode::kPrecopy, kMemfd, "Memfd", Kind::kPair, 2, true},
                    Kind{"PostcopyPair", MoveMode::kPostcopy, kMemfd, "Memfd", Kind::kPair, 2, true},
                    Kind{"PostcopyPairHuge", MoveMode::kPostcopy, kAnon, "Huge", Kind::kPair, 1, true},
                    Kind{"AutoPair", MoveMode::kAuto, kMemfd, "Small", Kind::kPair, 1, false},
                    Kind{"PrecopyHandedIn", MoveMode::kPrecopy, kMemfd, "Memfd", Kind::kHandedIn, 2, true},
                    Kind{"PostcopyHandedIn", MoveMode::kPostcopy, kMemfd, "Small", Kind::kHandedIn, 1, true}),
    [](const testing::TestParamInfo<Kind>& info) { return info.param.name; });

TEST(MoveOfBusyGuestTest, AutoTurnsIntoPostcopy) {
  FakeMove move({});
  move.port().restless = true;
  const FakeMoveResult result = move.Move({.mode = MoveMode::kAuto, .downtime_limit = absl::Microseconds(1)});
  ExpectMoved(move, result);
  EXPECT_TRUE(result.report.postcopy);
  EXPECT_GE(result.report.rounds, 2u);
  EXPECT_GT(result.report.resent_pages, 0u);
}

// 64 MiB, every page of which holds something.
void FillAll(FakeMove& move) {
  const uint8_t something[64] = {1, 2, 3};
  for (uint64_t page = 0; page < move.memory().total_bytes() / kPageBytes; ++page) {
    if (page < kFewPages.first_page || page >= kFewPages.first_page + kFewPages.pages) {
      ASSERT_TRUE(move.memory().Write(GuestAddress(page * kPageBytes), something).ok());
    }
  }
}

// A quarter of memory is written all the time, or all of it: that does not go again and again.
TEST(MoveOfBusyGuestTest, AutoSendsLittleInVain) {
  for (const uint64_t busy : {4096, 16384}) {
    FakeMove move({.work = kFewPages});
    FillAll(move);
    move.port().always_written = {.region = 0, .first = 0, .count = busy};
    const FakeMoveResult result = move.Move({.mode = MoveMode::kAuto, .downtime_limit = absl::Microseconds(1)});
    ExpectMoved(move, result);
    EXPECT_TRUE(result.report.postcopy);
    EXPECT_GT(result.report.resent_pages, 0u);
    EXPECT_LE(result.report.data_pages + result.report.zero_pages, 16384 * 115 / 100) << busy;
    EXPECT_LE(result.report.rounds, 12u);
  }
}

TEST(MoveOfBusyGuestTest, AutoThatConvergesEndsInPrecopy) {
  FakeMove move({.work = kFewPages});
  FillAll(move);
  const FakeMoveResult result = move.Move({.mode = MoveMode::kAuto, .downtime_limit = absl::Seconds(1)});
  ExpectMoved(move, result);
  EXPECT_FALSE(result.report.postcopy);
  // In parts, and the few that are written wait.
  EXPECT_GE(result.report.rounds, 3u);
  EXPECT_LE(result.report.data_pages + result.report.zero_pages, 16384 + 16 * kFewPages.pages);
}

TEST(MoveOfBusyGuestTest, UserStartsPostcopy) {
  FakeMove move({});
  bool asked = false;
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPrecopy, .downtime_limit = absl::Nanoseconds(1), .max_bandwidth = 200 << 20},
                [&](Source& source, const MoveProgress& progress) {
                  if (progress.state == MoveState::kActive && progress.round >= 1 && !asked) {
                    asked = true;
                    EXPECT_TRUE(source.StartPostcopy().ok());
                  }
                });
  ExpectMoved(move, result);
  EXPECT_TRUE(result.report.postcopy);
}

TEST(MoveOfBusyGuestTest, TimeoutCancelsOrTurnsIntoPostcopy) {
  FakeMove move({});
  move.port().restless = true;
  MoveOptions options{.mode = MoveMode::kPrecopy,
                      .downtime_limit = absl::Nanoseconds(1),
                      .max_bandwidth = 100 << 20,
                      .timeout = absl::Milliseconds(200)};
  const FakeMoveResult late = move.Move(options);
  ExpectStayed(move, late);
  EXPECT_EQ(late.source.code(), absl::StatusCode::kDeadlineExceeded) << late.source;
  options.on_timeout = OnTimeout::kPostcopy;
  ExpectMoved(move, move.Move(options));
}

TEST(MoveTest, BalloonedPagesAreNotSent) {
  FakeMove move({});
  const uint8_t rubbish[64] = {1, 2, 3};
  for (uint64_t page = 12000; page < 12500; ++page) {
    ASSERT_TRUE(move.memory().Write(GuestAddress(page * kPageBytes), rubbish).ok());
    move.port().ballooned.push_back(page);
  }
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy});
  ExpectMoved(move, result);
  for (uint64_t page = 12000; page < 12500; ++page) {
    EXPECT_EQ(*move.destination().memory()->ReadObject<uint8_t>(GuestAddress(page * kPageBytes)), 0) << "R8";
  }
}

struct Failure {
  const char* name;
  FakeFailure at;
  bool at_destination;
};

class FailureTest : public testing::TestWithParam<std::tuple<Failure, MoveMode>> {};

// R3: whatever fails before the guest was handed over, it runs on here, and the next move works.
TEST_P(FailureTest, GuestRunsOnAndASecondMoveWorks) {
  const auto& [failure, mode] = GetParam();
  FakeMove move({});
  (failure.at_destination ? move.destination().failure : move.port().failure) = failure.at;
  // The rounds are not what is tested: a loaded machine shall not have to converge.
  const MoveOptions options{.mode = mode, .downtime_limit = absl::Seconds(5)};
  const FakeMoveResult failed = move.Move(options);
  ExpectStayed(move, failed);
  EXPECT_EQ(failed.source_state, MoveState::kFailed);
  // The user at the source reads what went wrong, also at the other side.
  EXPECT_NE(failed.source.message().find(failure.at == FakeFailure::kBuild ? "avx512_fake" : "injected"),
            absl::string_view::npos)
      << failed.source;
  move.destination().failure = FakeFailure::kNone;
  move.port().failure = FakeFailure::kNone;
  ExpectMoved(move, move.Move(options));
}

INSTANTIATE_TEST_SUITE_P(All, FailureTest,
                         testing::Combine(testing::Values(Failure{"Describe", FakeFailure::kDescribe, false},
                                                          Failure{"StartDirtyTracking",
                                                                  FakeFailure::kStartDirtyTracking, false},
                                                          Failure{"CollectDirty", FakeFailure::kCollectDirty, false},
                                                          Failure{"Pause", FakeFailure::kPause, false},
                                                          Failure{"SaveState", FakeFailure::kSaveState, false},
                                                          Failure{"ReleaseDisks", FakeFailure::kReleaseDisks, false},
                                                          Failure{"RecordGrant", FakeFailure::kRecordGrant, false},
                                                          Failure{"Build", FakeFailure::kBuild, true},
                                                          Failure{"CheckState", FakeFailure::kCheckState, true},
                                                          Failure{"LoadState", FakeFailure::kLoadState, true},
                                                          Failure{"AcquireDisks", FakeFailure::kAcquireDisks, true},
                                                          Failure{"Run", FakeFailure::kRun, true}),
                                          testing::Values(MoveMode::kPrecopy, MoveMode::kPostcopy)),
                         [](const testing::TestParamInfo<std::tuple<Failure, MoveMode>>& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) == MoveMode::kPrecopy ? "Precopy" : "Postcopy");
                         });

// Somebody else has a disk: then the guest cannot run here, but nothing of the move is left, and the next one works.
TEST(TakeBackTest, GuestWhoseDisksDoNotComeBackStaysPausedAndCanMove) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    FakeMove move({});
    move.destination().failure = FakeFailure::kAcquireDisks;
    move.port().failure = FakeFailure::kTakeDisksBack;
    const MoveOptions options{.mode = mode, .downtime_limit = absl::Seconds(5)};
    const FakeMoveResult failed = move.Move(options);
    EXPECT_EQ(failed.source_state, MoveState::kFailed);
    EXPECT_FALSE(move.source_guest().running()) << "R2";
    EXPECT_TRUE(move.port().stays_paused);
    EXPECT_FALSE(move.port().tracking);
    EXPECT_EQ(move.port().inhibited, 0);
    const std::string message(failed.source.message());
    EXPECT_NE(message.find("did not go on here"), std::string::npos) << message;
    EXPECT_NE(message.find("take the disks back: injected"), std::string::npos) << message;
    EXPECT_EQ(message.find("runs on"), std::string::npos) << message;
    move.destination().failure = FakeFailure::kNone;
    move.port().failure = FakeFailure::kNone;
    ExpectMoved(move, move.Move(options));
  }
}

// R5: the limit holds back what nobody asked for. At this rate the pages that are claimed at once take two seconds, and
// all of them two minutes, were it not for the guest.
TEST(PostcopyLimitTest, DoesNotHoldBackWhatTheGuestWaitsFor) {
  FakeMove move({.work = {.first_page = 256, .pages = 2048, .random = true}});
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 64 << 10});
  ExpectMoved(move, result);
  ASSERT_FALSE(result.report.waiting.empty());
  EXPECT_LT(result.report.waiting[0].max, absl::Seconds(1));
}

class CancelTest : public testing::TestWithParam<MoveState> {};

TEST_P(CancelTest, GuestRunsOnAndASecondMoveWorks) {
  FakeMove move({});
  const MoveState when = GetParam();
  Source* source = nullptr;
  bool asked = false;
  const auto cancel = [&] {
    if (!asked && source != nullptr) {
      asked = true;
      EXPECT_TRUE(source->Cancel().ok());
    }
  };
  if (when == MoveState::kDevice) {
    move.port().on_save = cancel;
  }
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kAuto}, [&](Source& session, const MoveProgress& progress) {
        source = &session;
        if (progress.state == when) {
          cancel();
        }
      });
  ExpectStayed(move, result);
  EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
  EXPECT_NE(result.destination.message().find("cancelled"), absl::string_view::npos) << result.destination;
  EXPECT_TRUE(asked);
  move.port().on_save = nullptr;
  ExpectMoved(move, move.Move({}));
}

INSTANTIATE_TEST_SUITE_P(InEachState, CancelTest,
                         testing::Values(MoveState::kSetup, MoveState::kActive, MoveState::kDevice),
                         [](const testing::TestParamInfo<MoveState>& info) {
                           return std::string(MoveStateName(info.param));
                         });

TEST(CancelBeforeRunTest, IsRememberedAtBothEnds) {
  auto memory = GuestMemory::Create(4 << 20, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 16});
  guest.Run();
  FakeSourcePort port(**memory, guest);
  FakeDestination there(MemoryBacking::kMemfd);
  auto listener = Listener::Create({.kind = Address::Kind::kTcp, .host = "127.0.0.1", .port = "0"});
  ASSERT_TRUE(listener.ok()) << listener.status();
  auto destination = Destination::Create(AnyHost(), there, {});
  auto source = Source::Create(AnyHost(), port, {}, nullptr);
  ASSERT_TRUE(destination.ok() && source.ok());
  EXPECT_TRUE((*source)->Cancel().ok());
  EXPECT_TRUE((*destination)->Cancel().ok());
  EXPECT_TRUE(absl::IsCancelled((*source)->Run(OpenAt((*listener)->address()))));
  EXPECT_TRUE(absl::IsCancelled((*destination)->Run(*AcceptorOf(*std::move(listener)))));
  EXPECT_TRUE(guest.running());
}

TEST(CancelAfterGrantTest, IsRefused) {
  FakeMove move({});
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPostcopy}, [](Source& source, const MoveProgress& progress) {
        if (progress.state == MoveState::kPostcopyActive) {
          EXPECT_EQ(source.Cancel().code(), absl::StatusCode::kFailedPrecondition);
        }
      });
  ExpectMoved(move, result);
}

TEST(PackageTest, DamagedStateIsRefusedAndTheGuestRunsOn) {
  for (const bool cut : {false, true}) {
    FakeMove move({});
    move.port().on_package = [&](std::vector<uint8_t>& blob) {
      if (cut) {
        blob.resize(blob.size() / 2);
      } else {
        blob[0] ^= 1;
      }
    };
    const FakeMoveResult result = move.Move({});
    ExpectStayed(move, result);
    EXPECT_NE(result.source.message().find(cut ? "cut" : "unknown device"), absl::string_view::npos) << result.source;
    move.port().on_package = nullptr;
    ExpectMoved(move, move.Move({}));
  }
}

TEST(ConnectTest, NobodyThereIsAnErrorAndNothingHappened) {
  auto memory = GuestMemory::Create(4 << 20, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 16});
  guest.Run();
  FakeSourcePort port(**memory, guest);
  auto source = Source::Create(AnyHost(), port, {}, nullptr);
  ASSERT_TRUE(source.ok());
  const absl::Status status =
      (*source)->Run(OpenAt({.kind = Address::Kind::kUnix, .path = "/tmp/no-such-ferrite-socket"}));
  EXPECT_NE(status.message().find("No such file"), absl::string_view::npos) << status;
  EXPECT_EQ((*source)->state(), MoveState::kFailed);
  EXPECT_TRUE(guest.running());
}

class HostTest : public testing::Test {
 protected:
  static FakeMoveResult Move(const Host& host, MoveMode mode) {
    FakeMove move({.host = host});
    FakeMoveResult result = move.Move({.mode = mode});
    if (result.source.ok()) {
      ExpectMoved(move, result);
    } else {
      ExpectStayed(move, result);
    }
    return result;
  }

  TestHost test_host_;
  Host host_ = test_host_.get();
};

TEST_F(HostTest, UserfaultfdIsTheHosts) {
  std::atomic<int> opened = 0;
  host_.open_userfault = [&opened] {
    ++opened;
    return OpenUserfault();
  };
  EXPECT_EQ(Move(host_, MoveMode::kPostcopy).source, absl::OkStatus());
  EXPECT_GE(opened, 1);
  EXPECT_LE(opened, 5) << "four, and another one where the kernel lacks a feature";
}

TEST_F(HostTest, WithoutUserfaultfdPrecopyGoesAndPostcopyIsRefusedWithTheHostsReason) {
  host_.open_userfault = []() -> absl::StatusOr<Fd> { return absl::FailedPreconditionError("none for you today"); };
  const absl::Status refused = Move(host_, MoveMode::kPostcopy).source;
  EXPECT_TRUE(absl::StrContains(refused.message(), "none for you today")) << refused;
  EXPECT_EQ(Move(host_, MoveMode::kPrecopy).source, absl::OkStatus());
}

// Keeps the names of what it made, and refuses one.
class PickyMaker final : public ThreadMaker {
 public:
  absl::StatusOr<Thread> Start(std::string name, ThreadClass its_class, std::function<void()> body) override {
    {
      const absl::MutexLock lock(&mutex_);
      if (name == refused_) {
        return absl::ResourceExhaustedError(absl::StrCat("no ", name, " here"));
      }
      names_.insert(name);
    }
    return ThreadMaker::Start(std::move(name), its_class, std::move(body));
  }
  void Refuse(const std::string& name) {
    const absl::MutexLock lock(&mutex_);
    refused_ = name;
  }
  std::set<std::string> names() const {
    const absl::MutexLock lock(&mutex_);
    return names_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::string refused_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> names_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(HostTest, ThreadsAreTheHosts) {
  PickyMaker maker;
  const Host host{.log = test_host_.get().log, .threads = maker};
  for (const char* name : {"mig-src-ctl", "mig-dst-ctl", "mig-recv-0", "mig-page-0", "mig-dst-door", "mig-src-watch"}) {
    maker.Refuse(name);
    EXPECT_FALSE(Move(host, MoveMode::kPrecopy).source.ok()) << name;
  }
  maker.Refuse("");
  EXPECT_EQ(Move(host, MoveMode::kPrecopy).source, absl::OkStatus());
  EXPECT_EQ(Move(host, MoveMode::kPostcopy).source, absl::OkStatus());
  const std::set<std::string> names = maker.names();
  for (const char* name : {"mig-src-ctl", "mig-dst-ctl", "mig-recv-0", "mig-page-0", "mig-dst-door", "mig-src-watch",
                           "mig-fault-0", "mig-urgent-0"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

}  // namespace
}  // namespace ferrite::migration
