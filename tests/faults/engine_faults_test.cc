// Faults by the hundred: moves of guests that are threads, with the engine alone, each of which meets one fault at a
// random instant. Afterwards the guest runs exactly once and has all its memory, or `recover` brings it back (R1-R4),
// and a page that was lost is nowhere taken for another one (R9).
//
//   ./dev faults N [SEED]   N cases (300), from SEED on (printed when it is drawn)
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "memory/bus_fault.h"
#include "memory/guest_memory.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/socket.h"
#include "migration/protocol/preamble.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/lost_page.h"
#include "tests/faults/play_cases.h"
#include "tests/migration/landing.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kGuestBytes = uint64_t{16} << 20;
// What a move of it sends, about: instants are drawn from there.
constexpr double kMoveBytes = 12 << 20;
constexpr const char* kLandings[] = {"Huge", "Small", "Memfd"};
// After which a side that hears nothing gives the other one up.
constexpr absl::Duration kSilence = absl::Seconds(1);
constexpr int kIdlePercent = 80;
// A move takes seconds then.
constexpr uint64_t kSlowBytesASecond = 8 << 20;

enum class Fault {
  kReset,          // all connections
  kResetTwice,     // and once more when they are there again
  kLostThere,      // what goes to the destination is dropped without a word
  kLostBack,       // what comes from it
  kLate,           // pieces are late, each connection for itself: what was sent first need not come first
  kSlow,           // from then on the other side takes little at a time
  kHeldBack,       // nothing passes for a while, less or more than a side waits; then all of it comes
  kFlippedBit,     // on the way to the destination
  kLostBytes,      // likewise: a few, and then it goes on
  kCancel,         // by the user of the source
  kStartPostcopy,  // likewise
  kStranger,       // connects, says who it is and then nothing
  kGoneForGood,    // the destination, and the user takes the guest back
  // Where the kernel lets a test lose pages.
  kLostPages,       // of the source's memory, by its hardware (R9)
  kLostPagesReset,  // and then all connections
  kFaults,
};

const char* NameOf(Fault fault) {
  constexpr const char* kNames[] = {"reset",
                                    "reset twice",
                                    "lost on the way there",
                                    "lost on the way back",
                                    "late",
                                    "slow",
                                    "held back",
                                    "flipped bit",
                                    "lost bytes",
                                    "cancel",
                                    "start of post-copy",
                                    "stranger",
                                    "destination gone for good",
                                    "lost pages",
                                    "lost pages and a reset"};
  static_assert(std::size(kNames) == static_cast<size_t>(Fault::kFaults));
  return kNames[static_cast<int>(fault)];
}

bool CanLosePages() {
  static const bool can = PageLoser::Supported().ok();
  return can;
}
uint64_t KindsHere() { return static_cast<uint64_t>(CanLosePages() ? Fault::kFaults : Fault::kLostPages); }

// Counts who runs the guest: told by the guests themselves, not by the moves. Threads: any.
class Witness {
 public:
  // `words` are told with an alarm: which case it is.
  explicit Witness(std::string words) : words_(std::move(words)) {}
  void Runs(bool there) {
    const absl::MutexLock lock(&mutex_);
    if (there && gone_) {
      return;
    }
    (there ? there_ : here_) = true;
    EXPECT_FALSE(here_ && there_) << "R2: two runners: " << words_;
  }
  void StandsStill() {
    const absl::MutexLock lock(&mutex_);
    here_ = false;
  }
  // The destination's host, with whatever it still does.
  void IsGone() {
    const absl::MutexLock lock(&mutex_);
    gone_ = true;
    there_ = false;
  }

 private:
  const std::string words_;
  absl::Mutex mutex_;
  bool here_ ABSL_GUARDED_BY(mutex_) = true;
  bool there_ ABSL_GUARDED_BY(mutex_) = false;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
};

// Pages that the guest leaves alone, which the hardware of the source can lose (R9). Threads: any.
class FragilePages {
 public:
  // All of `memory` that is worth a look: they have content, without which a memfd loses nothing.
  FragilePages(GuestMemory& memory, const FakeGuestWork& work) : memory_(memory) {
    for (uint64_t page = 0; page < kGuestBytes / kPageBytes; page += 16) {
      if (page < work.first_page || page >= work.first_page + work.pages) {
        pages_.push_back(page);
        EXPECT_TRUE(memory.WriteObject(GuestAddress(page * kPageBytes), page + 1).ok());
      }
    }
  }
  const std::vector<uint64_t>& pages() const { return pages_; }

  void GuestRuns(bool runs) {
    const absl::MutexLock lock(&mutex_);
    guest_runs_ = runs;
  }
  // `written`: the guest has just written it.
  void Lose(uint64_t page, bool written) {
    const absl::MutexLock lock(&mutex_);
    if (written && guest_runs_) {
      written_.insert(page);
      EXPECT_TRUE(memory_.WriteObject(GuestAddress(page * kPageBytes), kWritten + page).ok());
    }
    PageLoser loser;
    absl::Status status = absl::AlreadyExistsError("");
    // Whoever sends it may be faster, and have it back from its file.
    for (int i = 0; i < 1000 && (absl::IsAlreadyExists(status) || absl::IsUnavailable(status)); ++i) {
      status = loser.Lose(*memory_.regions()[0], page * kPageBytes);
    }
    EXPECT_EQ(status, absl::OkStatus());
    lost_.insert(page);
  }
  // Where the guest is: each page is whole and not listed, or lost and listed; at the source it is what it was made.
  void ExpectWholeOrLost(GuestMemory& memory) const {
    const absl::MutexLock lock(&mutex_);
    const std::vector<GuestAddress> listed = memory.LostPages();
    for (const uint64_t page : pages_) {
      const GuestAddress address(page * kPageBytes);
      const volatile uint64_t* const word =
          reinterpret_cast<const uint64_t*>(memory.regions()[0]->guest_mapping().data() + address.value());
      uint64_t content = 0;
      const bool is_lost = TouchMemory([&] { content = *word; }).has_value();
      const bool is_listed = std::find(listed.begin(), listed.end(), address) != listed.end();
      const bool was_lost = lost_.contains(page);
      EXPECT_TRUE(!is_lost || was_lost) << "R1: page " << page;
      if (&memory == &memory_) {
        EXPECT_EQ(is_lost, was_lost) << "R9: page " << page;
        EXPECT_TRUE(is_lost || !is_listed) << "R9: page " << page;
      } else {
        EXPECT_EQ(is_lost, is_listed) << "R9: page " << page;
      }
      if (!is_lost) {
        EXPECT_EQ(content, written_.contains(page) ? kWritten + page : page + 1) << "R1, R9: page " << page;
      }
    }
  }

 private:
  static constexpr uint64_t kWritten = uint64_t{1} << 32;

  GuestMemory& memory_;
  std::vector<uint64_t> pages_;
  mutable absl::Mutex mutex_;
  bool guest_runs_ ABSL_GUARDED_BY(mutex_) = true;
  std::set<uint64_t> written_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> lost_ ABSL_GUARDED_BY(mutex_);
};

class Case {
 public:
  explicit Case(uint64_t seed)
      : seed_(seed),
        random_(seed),
        fault_(static_cast<Fault>(Below(KindsHere()))),
        landing_(LandingNamed(kLandings[Below(std::size(kLandings))])),
        mode_(static_cast<MoveMode>(Below(3))),
        tcp_(Below(2) == 0),
        anonymous_(Below(2) == 0),
        // As many small instants as large ones: most messages are in the first kilobytes.
        instant_(static_cast<uint64_t>(Below(2) == 0 ? std::pow(2.0, Uniform() * std::log2(kMoveBytes))
                                                     : Uniform() * kMoveBytes)),
        held_for_(absl::Milliseconds(300) + 2 * kSilence * Uniform()),
        on_timeout_(Below(2) == 0 ? OnTimeout::kCancel : OnTimeout::kPostcopy) {}

  std::string fault() const { return NameOf(fault_); }
  // Whether the fault came before the move was over.
  bool struck() const { return struck_; }
  std::string Words() const {
    return absl::StrCat(NameOf(fault_), " after ", instant_, " bytes, ", landing_.name, ", mode ",
                        static_cast<int>(mode_), tcp_ ? ", tcp" : ", unix",
                        anonymous_ ? ", from anonymous memory" : ", from a memfd");
  }

  void Play() {
    const FakeGuestWork work{.first_page = 256, .pages = 2048, .random = true};
    FakeMove move({.bytes = kGuestBytes,
                   .source_backing = anonymous_ ? MemoryBacking::kAnonymous : MemoryBacking::kMemfd,
                   .landing = &landing_,
                   .work = work,
                   .tcp = tcp_,
                   .relay = true});
    FragilePages pages(move.memory(), work);
    for (uint64_t i = 0, count = 1 + Below(4); i < count; ++i) {
      to_lose_.insert(pages.pages()[Below(pages.pages().size())]);
    }
    are_written_ = Below(2) == 0;
    pages_ = &pages;
    move.port().on_pause = [&] {
      witness_.StandsStill();
      pages.GuestRuns(false);
    };
    move.port().on_resume = [&] {
      witness_.Runs(/*there=*/false);
      pages.GuestRuns(true);
    };
    // Most of a case is waiting: other tests want the processors meanwhile.
    move.source_guest().SetThrottle(kIdlePercent);
    move.destination().on_run = [&] {
      witness_.Runs(/*there=*/true);
      move.destination().guest()->SetThrottle(kIdlePercent);
    };
    const bool slow = fault_ == Fault::kSlow;
    const FakeMoveResult result = move.Move(
        {.mode = mode_,
         .max_postcopy_bandwidth = Below(2) == 0 ? uint64_t{64} << 20 : 0,
         .channels = static_cast<int>(1 + Below(3)),
         .timeout = slow ? absl::Seconds(1) : absl::InfiniteDuration(),
         .on_timeout = on_timeout_,
         .silence = slow ? 5 * kSilence : kSilence,
         .patience = absl::Seconds(5),
         .recover_for = fault_ == Fault::kGoneForGood ? absl::Milliseconds(100) : absl::Seconds(5)},
        [&](Source& source, const MoveProgress&) { Prepare(move, source); },
        [&](Source& source, const absl::Status& status) { return Afterwards(move, source, status); });
    stranger_.reset();
    if (taken_back_) {
      // What is left of the other host; its guest may wait for a page.
      move.EndSession();
      move.destination().guest()->Pause();
    }
    ASSERT_NO_FATAL_FAILURE(ExpectOneRunner(move, result, 200));
    const bool is_there = result.source_state == MoveState::kCompleted;
    pages.ExpectWholeOrLost(is_there ? *move.destination().memory() : move.memory());
    if (slow) {
      EXPECT_EQ(result.report.recoveries, 0u) << "it was slow, and not lost";
      EXPECT_TRUE(is_there || (mode_ == MoveMode::kPrecopy && on_timeout_ == OnTimeout::kCancel)) << result.source;
    }
  }

 private:
  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  uint64_t Below(uint64_t limit) { return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_); }

  // Once, when there is a relay.
  void Prepare(FakeMove& move, Source& source) {
    if (std::exchange(prepared_, true)) {
      return;
    }
    Relay& relay = move.relay();
    switch (fault_) {
      case Fault::kLate:
        relay.DelayBy(absl::Milliseconds(2));
        return;
      case Fault::kFlippedBit:
        relay.DamageAfter(instant_, Relay::Damage::kFlip);
        return;
      case Fault::kLostBytes:
        relay.DamageAfter(instant_, Relay::Damage::kLoss);
        return;
      default:
        relay.ActAfter(instant_, [this, &relay, &source] { Strike(relay, source); });
    }
  }
  void Strike(Relay& relay, Source& source) {
    struck_ = true;
    switch (fault_) {
      case Fault::kReset:
        relay.Cut();
        break;
      case Fault::kResetTwice:
        relay.ActAfter(instant_ / 4 + 1, [&relay] { relay.Cut(); });
        relay.Cut();
        break;
      case Fault::kLostThere:
        relay.Lose(/*to_destination=*/true);
        break;
      case Fault::kLostBack:
        relay.Lose(/*to_destination=*/false);
        break;
      case Fault::kSlow:
        relay.SlowTo(kSlowBytesASecond);
        break;
      case Fault::kHeldBack:
        relay.HoldFor(held_for_);
        break;
      case Fault::kGoneForGood:
        relay.Close();
        relay.Cut();
        break;
      case Fault::kLostPages:
      case Fault::kLostPagesReset:
        for (const uint64_t page : to_lose_) {
          pages_->Lose(page, are_written_);
        }
        if (fault_ == Fault::kLostPagesReset) {
          relay.Cut();
        }
        break;
      case Fault::kCancel:
        (void)source.Cancel();
        break;
      case Fault::kStartPostcopy:
        (void)source.StartPostcopy();
        break;
      case Fault::kStranger:
        ComeAsAStranger(relay);
        break;
      case Fault::kLate:
      case Fault::kFlippedBit:
      case Fault::kLostBytes:
      case Fault::kFaults:
        break;
    }
  }
  void ComeAsAStranger(Relay& relay) {
    const auto never = EventFd::Create();
    auto stream = Connect(relay.address(), absl::Seconds(5), *never);
    if (stream.ok()) {
      (void)(*stream)->WriteAll(EncodePreamble({.lowest_version = 1, .version = 9, .role = ChannelRole::kControl}));
      stranger_ = *std::move(stream);
    }
  }

  // What docs/move.md tells the user to do with a move that stands still.
  absl::Status Afterwards(FakeMove& move, Source& source, const absl::Status& status) {
    struck_ = struck_ || fault_ == Fault::kLate || move.relay().damages() > 0;
    if (fault_ == Fault::kGoneForGood) {
      TakeBack(source);
      return status;
    }
    absl::Status last = status;
    for (int i = 0; i < 12 && source.state() == MoveState::kPostcopyPaused; ++i) {
      last = source.Recover(OpenAt(move.relay().address()));
    }
    return last;
  }

  // What it tells who knows that the destination is gone (`recover --here --force`): what listens there, the relay,
  // does not answer.
  void TakeBack(Source& source) {
    if (source.state() != MoveState::kPostcopyPaused) {
      return;
    }
    const absl::Status refused = source.TakeBack(/*force=*/false);
    EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
    EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
    witness_.IsGone();
    EXPECT_EQ(source.TakeBack(/*force=*/true), absl::OkStatus());
    taken_back_ = true;
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  const Fault fault_;
  const Landing& landing_;
  const MoveMode mode_;
  const bool tcp_;
  const bool anonymous_;
  const uint64_t instant_;
  const absl::Duration held_for_;
  const OnTimeout on_timeout_;
  Witness witness_{absl::StrCat(Words(), ", seed ", seed_)};
  FragilePages* pages_ = nullptr;
  std::set<uint64_t> to_lose_;
  bool are_written_ = false;
  bool prepared_ = false;
  bool taken_back_ = false;
  std::atomic<bool> struck_{false};
  std::unique_ptr<SocketStream> stranger_;
};

TEST(EngineFaultsTest, GuestRunsOnceWithAllItsMemory) {
  if (!CanLosePages()) {
    std::printf("no pages are lost here: %s\n", std::string(PageLoser::Supported().message()).c_str());
  }
  PlayCases<Case>(300, "./dev faults");
}

}  // namespace
}  // namespace ferrite::migration
