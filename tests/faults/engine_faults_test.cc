// Faults by the hundred: moves of guests that are threads, with the engine alone, each of which meets one fault at a
// random instant. Afterwards the guest runs exactly once and has all its memory, or `recover` brings it back (R1-R4).
//
//   ./dev faults N [SEED]   N cases (300), from SEED on (printed when it is drawn)
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/socket.h"
#include "migration/protocol/preamble.h"
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

enum class Fault {
  kReset,          // all connections
  kResetTwice,     // and once more when they are there again
  kLostThere,      // what goes to the destination is dropped without a word
  kLostBack,       // what comes from it
  kLate,           // pieces are late, each connection for itself: what was sent first need not come first
  kFlippedBit,     // on the way to the destination
  kLostBytes,      // likewise: a few, and then it goes on
  kCancel,         // by the user of the source
  kStartPostcopy,  // likewise
  kStranger,       // connects, says who it is and then nothing
  kFaults,
};

const char* NameOf(Fault fault) {
  constexpr const char* kNames[] = {"reset",
                                    "reset twice",
                                    "lost on the way there",
                                    "lost on the way back",
                                    "late",
                                    "flipped bit",
                                    "lost bytes",
                                    "cancel",
                                    "start of post-copy",
                                    "stranger"};
  static_assert(std::size(kNames) == static_cast<size_t>(Fault::kFaults));
  return kNames[static_cast<int>(fault)];
}

// Counts who runs the guest: told by the guests themselves, not by the moves. Threads: any.
class Witness {
 public:
  // `words` are told with an alarm: which case it is.
  explicit Witness(std::string words) : words_(std::move(words)) {}
  void Runs(bool there) {
    const absl::MutexLock lock(&mutex_);
    (there ? there_ : here_) = true;
    EXPECT_FALSE(here_ && there_) << "R2: two runners: " << words_;
  }
  void StandsStill() {
    const absl::MutexLock lock(&mutex_);
    here_ = false;
  }

 private:
  const std::string words_;
  absl::Mutex mutex_;
  bool here_ ABSL_GUARDED_BY(mutex_) = true;
  bool there_ ABSL_GUARDED_BY(mutex_) = false;
};

class Case {
 public:
  explicit Case(uint64_t seed)
      : seed_(seed),
        random_(seed),
        fault_(static_cast<Fault>(Below(static_cast<uint64_t>(Fault::kFaults)))),
        landing_(LandingNamed(kLandings[Below(std::size(kLandings))])),
        mode_(static_cast<MoveMode>(Below(3))),
        tcp_(Below(2) == 0),
        // As many small instants as large ones: most messages are in the first kilobytes.
        instant_(static_cast<uint64_t>(Below(2) == 0 ? std::pow(2.0, Uniform() * std::log2(kMoveBytes))
                                                     : Uniform() * kMoveBytes)) {}

  std::string fault() const { return NameOf(fault_); }
  // Whether the fault came before the move was over.
  bool struck() const { return struck_; }
  std::string Words() const {
    return absl::StrCat(NameOf(fault_), " after ", instant_, " bytes, ", landing_.name, ", mode ",
                        static_cast<int>(mode_), tcp_ ? ", tcp" : ", unix");
  }

  void Play() {
    FakeMove move({.bytes = kGuestBytes,
                   .landing = &landing_,
                   .work = {.first_page = 256, .pages = 2048, .random = true},
                   .tcp = tcp_,
                   .relay = true});
    move.port().on_pause = [this] { witness_.StandsStill(); };
    move.port().on_resume = [this] { witness_.Runs(/*there=*/false); };
    // Most of a case is waiting: other tests want the processors meanwhile.
    move.source_guest().SetThrottle(kIdlePercent);
    move.destination().on_run = [&] {
      witness_.Runs(/*there=*/true);
      move.destination().guest()->SetThrottle(kIdlePercent);
    };
    const FakeMoveResult result = move.Move(
        {.mode = mode_,
         .max_postcopy_bandwidth = Below(2) == 0 ? uint64_t{64} << 20 : 0,
         .channels = static_cast<int>(1 + Below(3)),
         .silence = kSilence,
         .patience = absl::Seconds(5),
         .recover_for = absl::Seconds(5)},
        [&](Source& source, const MoveProgress&) { Prepare(move, source); },
        [&](Source& source, const absl::Status& status) { return Afterwards(move, source, status); });
    stranger_.reset();
    ExpectOneRunner(move, result, 200);
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
    absl::Status last = status;
    for (int i = 0; i < 12 && source.state() == MoveState::kPostcopyPaused; ++i) {
      last = source.Recover(OpenAt(move.relay().address()));
    }
    return last;
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  const Fault fault_;
  const Landing& landing_;
  const MoveMode mode_;
  const bool tcp_;
  const uint64_t instant_;
  Witness witness_{absl::StrCat(Words(), ", seed ", seed_)};
  bool prepared_ = false;
  std::atomic<bool> struck_{false};
  std::unique_ptr<SocketStream> stranger_;
};

TEST(EngineFaultsTest, GuestRunsOnceWithAllItsMemory) { PlayCases<Case>(300, "./dev faults"); }

}  // namespace
}  // namespace ferrite::migration
