// Each channel is closed at each message of a move, at either end, before and after it (R2, R3, R4): the end of a
// connection is never taken for success. Which messages there are follows from the protocol, and each of them is cut
// but PING and PONG, which nothing depends on:
//   - in a move that goes well, all that passes: each kind of frame of the protocol, too, of a guest with lost pages
//   (R9),
//   - in the rounds, where the move goes on,
//   - in a recovery, which is cut again where the message is said again, those from RECOVER to HEARD,
//   - in a move that ends early, REFUSE, ERROR and CANCEL, from either side that has a reason to say them,
//   - where a person takes the guest back, those from RECOVER to REVOKED,
//   - where one of several page channels breaks, BROKEN, whichever side says it first,
//   - and over sockets what stands before the messages: preamble, challenge and proof.
// With FERRITE_EVERY set some of them are (ForEachCase()).
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "memory/bus_fault.h"
#include "memory/guest_memory.h"
#include "migration/api/move_options.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "tests/fakes/cut_channels.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/lost_page.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 200;

// What passes in no move that goes well, by where it is cut here.
const std::set<std::string> kOfARecovery = {"RECOVER", "STANDING", "MISSING"};
const std::set<std::string> kOfAnEarlyEnd = {"REFUSE", "ERROR", "CANCEL"};
const std::set<std::string> kOfATakingBack = {"REVOKE", "REVOKED"};
const std::set<std::string> kOfABrokenChannel = {"BROKEN"};
// They come when they like.
const std::set<std::string> kOfNothing = {"PING", "PONG"};

template <size_t... kIndex>
std::vector<std::string> NamesOf(std::index_sequence<kIndex...>) {
  return {std::string(MessageName(std::variant_alternative_t<kIndex, Message>{}))...};
}
std::vector<std::string> AllMessages() { return NamesOf(std::make_index_sequence<std::variant_size_v<Message>>()); }

// While the guest is copied: the move goes on.
bool IsOfTheCopying(const std::string& what, MoveMode mode) {
  return mode == MoveMode::kPrecopy && (what == "ROUND" || what == "DISCARD" || what == "DISCARDED");
}

// Just before the copying, or behind it: where the source is when it finds the cut, and so whether the move goes on, is
// a matter of moments.
bool MayBeOfTheCopying(const std::string& what) { return what == "ADVISE" || what == "READY" || what == "ROUND"; }

// The end of the connection is the source's affair alone from here on, and the destination goes on without it.
bool IsLate(const std::string& what) {
  const std::set<std::string> late = {"GRANT", "RUNNING", "END", "SHUT", "HEARD", "RECOVER", "STANDING", "MISSING"};
  return late.contains(what);
}

// What the protocol takes for a frame.
std::vector<PageFrameType> AllFrames() {
  std::vector<PageFrameType> frames;
  for (uint16_t type = 0; type < 256; ++type) {
    const auto header = EncodePageHeader({.type = static_cast<PageFrameType>(type), .count = 1});
    if (DecodePageHeader(header).ok()) {
      frames.push_back(static_cast<PageFrameType>(type));
    }
  }
  return frames;
}
// And the channels that it comes over.
std::set<std::string> NamesOf(PageFrameType frame) {
  const std::string name(FrameName(frame));
  switch (frame) {
    case PageFrameType::kRound:
      return {"page " + name};
    case PageFrameType::kRequest:
      return {"urgent " + name};
    default:
      return {"page " + name, "urgent " + name};
  }
}

// Pages in which the guest does not work. The last ones: they come last where nobody asks for them.
constexpr uint64_t kPages = 4096;
constexpr FakeGuestWork kWork = {.first_page = 256, .pages = 2048, .random = true};
constexpr uint64_t kLost = kPages - 2;       // and listed
constexpr uint64_t kUntouched = kPages - 8;  // likewise, and nobody asks for it
constexpr uint64_t kUnmet = kPages - 4;      // lost, where the kernel lets a test lose pages
constexpr uint64_t kZeroes = kPages - 6;

FakeMoveSetup SetupWith(CutPlan& plan) {
  return {.bytes = kPages * kPageBytes, .work = kWork, .wrap = [&plan](PairRendezvous place) {
            return WithCuts(std::move(place), plan);
          }};
}

uint8_t* PageOf(GuestMemory& memory, uint64_t page) {
  return memory.regions()[0]->guest_mapping().data() + page * kPageBytes;
}
bool IsLost(GuestMemory& memory, uint64_t page) {
  const volatile uint8_t* const at = PageOf(memory, page);
  return TouchMemory([at] { (void)*at; }).has_value();
}

// A move of which all frames pass: of a guest that has lost pages, and touches them, and one of zeroes, over there.
class CutMove {
 public:
  explicit CutMove(CutPlan& plan) : CutMove(SetupWith(plan)) {}
  explicit CutMove(const FakeMoveSetup& setup) : move_(setup) {
    EXPECT_TRUE(move_.memory().WriteObject(GuestAddress(kZeroes * kPageBytes), uint64_t{0}).ok());
    EXPECT_TRUE(move_.memory().WriteObject(GuestAddress(kUnmet * kPageBytes), uint64_t{1}).ok());
    for (const uint64_t page : {kLost, kUntouched}) {
      move_.memory().regions()[0]->AddLost(page * kPageBytes);
    }
    if (can_lose_) {
      PageLoser loser;
      EXPECT_EQ(loser.Lose(*move_.memory().regions()[0], kUnmet * kPageBytes), absl::OkStatus());
    }
    // Most of a case is waiting: other tests want the processors meanwhile.
    constexpr int kIdlePercent = 80;
    move_.source_guest().SetThrottle(kIdlePercent);
    move_.destination().on_run = [this] {
      move_.destination().guest()->SetThrottle(kIdlePercent);
      toucher_ = StartOrDie("toucher", [this] {
        for (const uint64_t page : {kLost, kZeroes, kUnmet}) {
          (void)IsLost(*move_.destination().memory(), page);
        }
      });
    };
  }
  ~CutMove() {
    // It may wait for a page that never comes.
    move_.EndSession();
    toucher_.Join();
  }

  FakeMove& operator*() { return move_; }
  FakeMove* operator->() { return &move_; }

  // R2, R3, and where the guest is, what was lost is so, and nothing else (R9).
  void ExpectOneRunner(const FakeMoveResult& result) {
    ASSERT_NO_FATAL_FAILURE(migration::ExpectOneRunner(move_, result, kSteps));
    const bool is_there = result.source_state == MoveState::kCompleted;
    GuestMemory& memory = is_there ? *move_.destination().memory() : move_.memory();
    for (const uint64_t page : {kLost, kUntouched}) {
      EXPECT_TRUE(memory.regions()[0]->IsLost(page * kPageBytes));
      EXPECT_TRUE(IsLost(memory, page) || !is_there);
    }
    EXPECT_EQ(IsLost(memory, kUnmet), can_lose_);
    EXPECT_TRUE(!is_there || memory.regions()[0]->IsLost(kUnmet * kPageBytes) == can_lose_);
    EXPECT_EQ(memory.LostPages().size(), memory.regions()[0]->IsLost(kUnmet * kPageBytes) ? 3u : 2u);
    ASSERT_FALSE(IsLost(memory, kZeroes));
    EXPECT_EQ(*PageOf(memory, kZeroes), 0u) << "R1";
  }

 private:
  const bool can_lose_ = PageLoser::Supported().ok();
  FakeMove move_;
  Thread toucher_;
};

MoveOptions Options(MoveMode mode) {
  return {.mode = mode,
          // Enough is missing when the guest runs there.
          .max_postcopy_bandwidth = uint64_t{64} << 20,
          // Nobody is waited for as long: connections are closed.
          .silence = absl::Seconds(5),
          .patience = absl::Seconds(5),
          .recover_for = absl::Seconds(5)};
}

std::set<Cut> SeenInAnOrderlyMove(MoveMode mode) {
  CutPlan plan;
  CutMove move(plan);
  const FakeMoveResult result = move->Move(Options(mode));
  EXPECT_TRUE(result.source.ok()) << result.source;
  move.ExpectOneRunner(result);
  return plan.seen();
}

TEST(CutChannelTest, EveryMessageOfTheProtocolIsInThisTable) {
  std::set<std::string> seen;
  for (const Cut& cut : SeenInAnOrderlyMove(MoveMode::kPostcopy)) {
    seen.insert(cut.what);
  }
  std::set<std::string> seen_in_rounds;
  for (const Cut& cut : SeenInAnOrderlyMove(MoveMode::kPrecopy)) {
    seen_in_rounds.insert(cut.what);
  }
  for (const auto& others : {kOfARecovery, kOfAnEarlyEnd, kOfATakingBack, kOfABrokenChannel, kOfNothing}) {
    seen.insert(others.begin(), others.end());
  }
  for (const std::string& name : AllMessages()) {
    EXPECT_TRUE(seen.contains(name)) << name;
  }
  EXPECT_GE(AllFrames().size(), 5u);
  for (const PageFrameType frame : AllFrames()) {
    EXPECT_NE(FrameName(frame), "") << static_cast<int>(frame);
    for (const std::string& name : NamesOf(frame)) {
      EXPECT_TRUE(seen.contains(name)) << name;
      const bool is_of_rounds = name.starts_with("page ");
      EXPECT_TRUE(seen_in_rounds.contains(name) || !is_of_rounds) << name << ", in the rounds";
    }
  }
}

// Between the look for zeroes and the sum of it: the sink finds it, and hands it on through this fake.
TEST(CutChannelTest, PageThatIsLostWhileItLeavesIsLostThere) {
  if (const absl::Status status = PageLoser::Supported(); !status.ok()) {
    GTEST_SKIP() << status;
  }
  constexpr uint64_t kLeaving = 8;
  for (const MoveMode mode : {MoveMode::kPostcopy, MoveMode::kPrecopy}) {
    CutPlan plan;
    CutMove move(plan);
    ASSERT_TRUE(move->memory().WriteObject(GuestAddress(kLeaving * kPageBytes), uint64_t{1}).ok());
    std::atomic<bool> lost = false;
    plan.on_frame = [&](const PageHeader& header) {
      if (header.type == PageFrameType::kPages && header.first_page <= kLeaving &&
          kLeaving < header.first_page + header.count && !lost.exchange(true)) {
        PageLoser loser;
        EXPECT_EQ(loser.Lose(*move->memory().regions()[0], kLeaving * kPageBytes), absl::OkStatus());
      }
    };
    const FakeMoveResult result = move->Move(Options(mode));
    EXPECT_TRUE(result.source.ok()) << result.source;
    EXPECT_TRUE(lost);
    ASSERT_NO_FATAL_FAILURE(ExpectOneRunner(*move, result, kSteps));
    EXPECT_TRUE(IsLost(*move->destination().memory(), kLeaving));
    EXPECT_TRUE(move->destination().memory()->regions()[0]->IsLost(kLeaving * kPageBytes));
  }
}

class CutTest : public testing::TestWithParam<MoveMode> {};

TEST_P(CutTest, GuestRunsOnceWhereverAChannelIsClosed) {
  const std::set<Cut> seen = SeenInAnOrderlyMove(GetParam());
  const std::vector<Cut> cuts(seen.begin(), seen.end());
  ForEachCase(cuts.size(), [&](uint64_t index) {
    const Cut& cut = cuts[index];
    if (kOfNothing.contains(cut.what)) {
      return;
    }
    SCOPED_TRACE(testing::Message() << cut);
    CutPlan plan({cut});
    CutMove move(plan);
    const FakeMoveResult result = move->Move(Options(GetParam()));
    move.ExpectOneRunner(result);
    EXPECT_NE(result.source_state, MoveState::kCancelled) << "nobody did";
    const bool is_control = cut.what.find(' ') == std::string::npos;
    // Which pages a guest waits for differs from move to move.
    EXPECT_TRUE(plan.left() == 0 || !is_control);
    if (is_control && IsOfTheCopying(cut.what, GetParam())) {
      EXPECT_TRUE(result.source.ok()) << result.source;
    } else if (MayBeOfTheCopying(cut.what)) {
      // Either way the guest runs once.
    } else if (is_control && IsLate(cut.what)) {
      EXPECT_TRUE(result.source.ok()) << "R4: " << result.source;
    } else if (is_control && cut.what != "LOADED" && !(cut.what == "PACKAGE" && cut.after)) {
      // Of these two the other side may have had the next word before the cut.
      EXPECT_FALSE(result.source.ok()) << "R3";
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, CutTest, testing::Values(MoveMode::kPostcopy, MoveMode::kPrecopy),
                         [](const testing::TestParamInfo<MoveMode>& info) {
                           return info.param == MoveMode::kPostcopy ? "Postcopy" : "Precopy";
                         });

// At either end, before and after it.
std::vector<Cut> CutsOf(const std::string& what) {
  std::vector<Cut> cuts;
  for (const bool at_source : {true, false}) {
    for (const bool after : {false, true}) {
      cuts.push_back({.at_source = at_source, .what = what, .after = after});
    }
  }
  return cuts;
}

// The same of a recovery, and, where the message is said again, of the recovery of that.
TEST(CutRecoveryTest, GuestRunsOnceWhereverARecoveryIsCut) {
  std::vector<std::pair<std::string, Cut>> cases;
  for (const std::string first : {"GRANT", "RUNNING"}) {
    std::set<std::string> words = {"OPENED", "END", "SHUT", "HEARD"};
    words.insert(kOfARecovery.begin(), kOfARecovery.end());
    if (first == "GRANT") {
      words.insert("GRANT");
      words.insert("RUNNING");
    }
    for (const std::string& what : words) {
      for (const Cut& cut : CutsOf(what)) {
        cases.push_back({first, cut});
      }
    }
  }
  absl::Mutex mutex;
  std::set<Cut> cut_in_recovery;
  ForEachCase(cases.size(), [&](uint64_t index) {
    const std::string& first = cases[index].first;
    const Cut& cut = cases[index].second;
    SCOPED_TRACE(testing::Message() << first << ", then " << cut);
    CutPlan plan({{.at_source = true, .what = first, .after = first == "RUNNING"}, cut, cut});
    CutMove move(plan);
    const FakeMoveResult result = move->Move(Options(MoveMode::kPostcopy));
    EXPECT_TRUE(result.source.ok()) << "R4: " << result.source;
    move.ExpectOneRunner(result);
    if (plan.left() <= 1) {
      const absl::MutexLock lock(&mutex);
      cut_in_recovery.insert(cut);
    }
  });
  // Not in each case: what was said before it was cut need not be said again.
  for (const auto& [first, cut] : cases) {
    EXPECT_TRUE(cut_in_recovery.contains(cut) || !IsEachCasePlayed()) << cut;
  }
}

// Brings a guest back that stands still, as a person does: a try that meets the end of a destination may fail.
void TakeBackIfPaused(Source& source) {
  const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(20);
  while (source.state() == MoveState::kPostcopyPaused) {
    ASSERT_LT(MonotonicTime::Now(), deadline);
    (void)source.TakeBack(/*force=*/false);
  }
}

// A move that ends before the guest goes over, and the word that says so.
struct EarlyEnd {
  const char* why;
  const char* word;
  std::function<void(FakeMove&)> prepare = nullptr;
  std::function<void(FakeMove&, Source&, MoveState)> during = nullptr;
};

std::vector<EarlyEnd> EarlyEnds() {
  return {
      {"the destination cannot build the machine", "REFUSE",
       [](FakeMove& move) { move.destination().failure = FakeFailure::kBuild; }},
      {"the destination cannot run the guest", "REFUSE",
       [](FakeMove& move) { move.destination().failure = FakeFailure::kRun; }},
      {"it is cancelled at the destination that has loaded the state", "REFUSE",
       [](FakeMove& move) { move.port().on_grant = [&move] { EXPECT_TRUE(move.session().Cancel().ok()); }; }},
      {"the destination does not take the state", "ERROR",
       [](FakeMove& move) { move.destination().failure = FakeFailure::kCheckState; }},
      {"the source cannot save the state", "ERROR",
       [](FakeMove& move) { move.port().failure = FakeFailure::kSaveState; }},
      {"the source cannot write GRANT down", "ERROR",
       [](FakeMove& move) { move.port().failure = FakeFailure::kRecordGrant; }},
      {"it is cancelled in a round", "CANCEL", nullptr,
       [](FakeMove&, Source& source, MoveState state) {
         if (state == MoveState::kActive) {
           (void)source.Cancel();
         }
       }},
      {"it is cancelled while the state is saved", "CANCEL", nullptr,
       [](FakeMove& move, Source& source, MoveState state) {
         if (state == MoveState::kSetup) {
           move.port().on_save = [&source] { EXPECT_TRUE(source.Cancel().ok()); };
         }
       }},
  };
}

// R3: whoever does not hear the word takes nothing for granted, and the guest is the source's.
TEST(CutEarlyEndTest, GuestStaysWhereverTheWordOfItIsCut) {
  std::set<std::string> words;
  std::vector<std::pair<EarlyEnd, Cut>> cases;
  for (const EarlyEnd& end : EarlyEnds()) {
    words.insert(end.word);
    for (const Cut& cut : CutsOf(end.word)) {
      cases.push_back({end, cut});
    }
  }
  EXPECT_EQ(words, kOfAnEarlyEnd);
  ForEachCase(cases.size(), [&](uint64_t index) {
    const EarlyEnd& end = cases[index].first;
    const Cut& cut = cases[index].second;
    SCOPED_TRACE(testing::Message() << end.why << ": " << cut);
    CutPlan plan({cut});
    CutMove move(plan);
    if (end.prepare) {
      end.prepare(*move);
    }
    const FakeMoveResult result = move->Move(
        Options(MoveMode::kPrecopy),
        [&](Source& source, const MoveProgress& progress) {
          if (end.during) {
            end.during(*move, source, progress.state);
          }
          if (progress.state == MoveState::kPostcopyPaused) {
            // REFUSE was not heard, and nobody is there any more.
            source.Leave();
          }
        },
        [&](Source& source, const absl::Status& status) {
          TakeBackIfPaused(source);
          return status;
        });
    EXPECT_FALSE(result.source.ok()) << "R3";
    EXPECT_EQ(result.source_state == MoveState::kCancelled, cut.what == "CANCEL") << result.source;
    EXPECT_FALSE(result.destination.ok());
    move.ExpectOneRunner(result);
    EXPECT_EQ(plan.left(), 0u);
  });
}

// GRANT did not arrive, and a person takes the guest back: at the second try where the first one got no answer.
TEST(CutTakingBackTest, GuestIsBackWhereverItIsCut) {
  std::vector<Cut> cases;
  std::set<std::string> words = {"RECOVER", "STANDING"};
  words.insert(kOfATakingBack.begin(), kOfATakingBack.end());
  for (const std::string& what : words) {
    for (const Cut& cut : CutsOf(what)) {
      cases.push_back(cut);
    }
  }
  ForEachCase(cases.size(), [&](uint64_t index) {
    const Cut& cut = cases[index];
    SCOPED_TRACE(testing::Message() << cut);
    CutPlan plan({{.at_source = true, .what = "GRANT"}, cut});
    CutMove move(plan);
    const FakeMoveResult result = move->Move(
        Options(MoveMode::kPostcopy),
        [&](Source& source, const MoveProgress& progress) {
          if (progress.state == MoveState::kPostcopyPaused) {
            source.Leave();
          }
        },
        [&](Source& source, const absl::Status& status) {
          EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
          TakeBackIfPaused(source);
          return status;
        });
    EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
    EXPECT_FALSE(result.destination.ok());
    move.ExpectOneRunner(result);
    EXPECT_EQ(plan.left(), 0u);
  });
}

// One of three page channels breaks, and then the control channel, at the word of it: what was lost with the first one
// is missing in the recovery (R4).
TEST(CutBrokenChannelTest, MoveIsRecoveredWhereverTheWordOfItIsCut) {
  const std::vector<Cut> cases = CutsOf("BROKEN");
  ForEachCase(2 * cases.size(), [&](uint64_t index) {
    const Cut& cut = cases[index / 2];
    const bool source_first = index % 2 == 0;
    SCOPED_TRACE(testing::Message() << cut << (source_first ? ", the source notices first" : ""));
    CutPlan plan;
    CutMove move(plan);
    const auto on_run = std::move(move->destination().on_run);
    move->destination().on_run = [&] {
      plan.Add({.at_source = source_first, .what = "page PAGES"});
      plan.Add(cut);
      on_run();
    };
    MoveOptions options = Options(MoveMode::kPostcopy);
    options.channels = 3;
    const FakeMoveResult result = move->Move(options);
    EXPECT_TRUE(result.source.ok()) << "R4: " << result.source;
    move.ExpectOneRunner(result);
    EXPECT_EQ(plan.left(), 0u);
  });
}

// What stands before the messages of a connection.
struct FirstBytes {
  uint64_t connection;  // control, page, urgent; of a recovery likewise
  bool to_destination;
  uint64_t bytes;
  bool in_recovery;
};

std::vector<FirstBytes> AllFirstBytes() {
  std::vector<FirstBytes> all;
  for (const bool in_recovery : {false, true}) {
    for (const uint64_t connection : {0, 1, 2}) {
      for (const uint64_t bytes : {size_t{0}, kPreambleBytes / 2, kPreambleBytes}) {
        all.push_back({connection, /*to_destination=*/true, bytes, in_recovery});
      }
      if (connection == 0 && !in_recovery) {
        continue;  // it has no proof
      }
      for (const uint64_t bytes : {size_t{0}, kChallengeBytes / 2, kChallengeBytes}) {
        all.push_back({connection, /*to_destination=*/false, bytes, in_recovery});
      }
      for (const uint64_t bytes : {kProofBytes / 2, kProofBytes}) {
        all.push_back({connection, /*to_destination=*/true, kPreambleBytes + bytes, in_recovery});
      }
    }
  }
  return all;
}

// Before the first byte, in the middle of it and behind it: the guest stays, and a recovery is tried again.
TEST(CutFirstBytesTest, GuestRunsOnceWhereverTheyAreCut) {
  const std::vector<FirstBytes> all = AllFirstBytes();
  MoveOptions options = Options(MoveMode::kPostcopy);
  // Who waits for a connection that broke while it was opened does not hear of that.
  options.patience = absl::Seconds(2);
  options.recover_for = absl::Seconds(20);
  ForEachCase(all.size(), [&](uint64_t index) {
    const FirstBytes& first = all[index];
    SCOPED_TRACE(testing::Message() << "connection " << first.connection
                                    << (first.in_recovery ? " of the recovery" : " of the move") << " after "
                                    << first.bytes << " bytes " << (first.to_destination ? "there" : "back"));
    FakeMove* made = nullptr;
    const auto cut = [&] { made->relay().CutConnectionAfter(first.connection, first.to_destination, first.bytes); };
    CutMove move(FakeMoveSetup{.bytes = kPages * kPageBytes,
                               .work = kWork,
                               .tcp = index % 2 == 0,
                               .relay = true,
                               .wrap = [&](PairRendezvous place) {
                                 if (!first.in_recovery) {
                                   cut();
                                 }
                                 return place;
                               }});
    made = &*move;
    move->port().on_grant = [&] {
      if (first.in_recovery && made->relay().cuts() == 0) {
        cut();
        made->relay().Cut();
      }
    };
    uint64_t cuts = 0;
    const FakeMoveResult result = move->Move(options, nullptr, [&](Source&, const absl::Status& status) {
      cuts = move->relay().cuts();
      return status;
    });
    // Who has all of the last proof may have said OPENED, and the guest goes over; so it does where that is found only
    // in the rounds.
    const bool may_be_open =
        first.to_destination ? first.bytes >= kPreambleBytes + kProofBytes : first.bytes >= kChallengeBytes;
    if (first.in_recovery || !may_be_open) {
      EXPECT_EQ(result.source.ok(), first.in_recovery) << result.source;
    }
    move.ExpectOneRunner(result);
    EXPECT_EQ(cuts, first.in_recovery ? 2u : 1u);
  });
}

}  // namespace
}  // namespace ferrite::migration
