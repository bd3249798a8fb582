// Machines that move with their disk, and meet a fault at a random instant of it: a monitor is killed, or stopped for a
// while, or the user cancels. The guest keeps a journal on the disk (tests/guest/journal.cc). Afterwards it runs in one
// place, or in none as docs/failure.md says; one image, that docs/move.md says is right, has all that the guest knew to
// be flushed, the other one is of one instant, or marked, or gone; and a new monitor goes on with the right one
// (R1-R4).
//
//   ./dev faults --disks N [SEED]   N cases, from SEED on (printed when it is drawn)
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/journal_image.h"
#include "tests/fakes/journal_machine.h"
#include "tests/fakes/test_place.h"
#include "tests/faults/play_cases.h"
#include "vmm/app/exit_codes.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kJournalBytes = JournalMachine::kJournalBytes;
constexpr uint64_t kImageBytes = 8 * kMiB;
constexpr absl::Duration kPatience = absl::Seconds(120);

enum class Fault {
  kKillSource,
  kKillDestination,
  kCancel,
  kStopDestination,
  kFaults,
};

const char* NameOf(Fault fault) {
  constexpr const char* kNames[] = {"source killed", "destination killed", "cancel", "destination stopped"};
  static_assert(std::size(kNames) == static_cast<size_t>(Fault::kFaults));
  return kNames[static_cast<int>(fault)];
}

// From when on the instant is counted. A few milliseconds decide where the guest goes on.
enum class Since {
  kBegin,   // of the move: its disk is copied
  kDevice,  // the guest stands still
  kGrant,   // the source has written down to whom it gives the guest
  kWhole,   // the mark at the destination has gone
  kSinces,
};

const char* NameOf(Since since) {
  constexpr const char* kNames[] = {"the begin", "the standstill", "GRANT", "the mark went"};
  static_assert(std::size(kNames) == static_cast<size_t>(Since::kSinces));
  return kNames[static_cast<int>(since)];
}

class Case {
 public:
  explicit Case(uint64_t seed)
      : random_(seed),
        fault_(static_cast<Fault>(Below(static_cast<uint64_t>(Fault::kFaults)))),
        since_(Below(2) == 0 ? Since::kBegin : static_cast<Since>(Below(static_cast<uint64_t>(Since::kSinces)))),
        // As many short whiles as long ones, where most of it is decided in a few milliseconds.
        after_(since_ == Since::kBegin
                   ? ForPlace(absl::Milliseconds(500), absl::Seconds(6)) * Uniform()
                   : ForPlace(absl::Milliseconds(20), absl::Milliseconds(400)) * std::pow(1000, -Uniform())),
        mode_(kModes[Below(std::size(kModes))]),
        channels_(Below(2) == 0 ? 1 : 3),
        recover_for_(Below(2) == 0 ? "0" : "1s"),
        existing_(Below(3) == 0),
        kibibytes_a_second_(static_cast<uint64_t>(8 * 1024 * std::pow(4, Uniform()))),
        // Now and then for longer than a guest may stand still, or than a silence may last.
        stop_for_(Below(6) != 0   ? absl::Seconds(1) * Uniform()
                  : Below(4) != 0 ? absl::Seconds(4)
                                  : absl::Seconds(12)),
        calmly_(Below(2) == 0) {
    // In memory: many flushes in a short time. Who is killed loses nothing of what its kernel has.
    char name[] = "/dev/shm/ferrite-faults-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    root_ = Path("root.img");
    copy_ = Path("copy.img");
    here_ = std::make_unique<JournalMachine>(directory_, "a");
    there_ = std::make_unique<JournalMachine>(directory_, "b");
  }
  ~Case() {
    here_.reset();
    there_.reset();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  std::string fault() const {
    return absl::StrCat(NameOf(fault_), ran_there_ ? ": the guest went" : ": the guest did not go");
  }
  // Whether it came before the move was over.
  bool struck() const { return struck_; }
  std::string Words() const {
    return absl::StrCat(NameOf(fault_), " ", absl::FormatDuration(after_), " after ", NameOf(since_), ", ", MoveWords(),
                        existing_ ? ", over a file that was there" : "",
                        fault_ == Fault::kStopDestination ? ", for " + absl::FormatDuration(stop_for_) : "");
  }

  void Play() {
    ASSERT_NO_FATAL_FAILURE(MakeImages());
    here_->Run(root_);
    ASSERT_NO_FATAL_FAILURE(here_->AwaitFlushed(1));
    Receive(existing_);
    const auto move = here_->Start(absl::StrCat("move web1 ", there_->address(), " --json ", MoveWords()));
    ASSERT_NO_FATAL_FAILURE(AwaitInstant(*move));
    struck_ = !move->HasEnded();
    if (struck_) {
      Strike();
    }
    const Finished moved = move->Wait();
    SCOPED_TRACE(absl::StrCat("move: ", moved.exit_code, " ", moved.err));
    if (struck_ && fault_ == Fault::kKillSource) {
      ASSERT_NO_FATAL_FAILURE(ExpectThereOrNowhere());
    } else if (struck_ && fault_ == Fault::kKillDestination) {
      ASSERT_NO_FATAL_FAILURE(ExpectHereOrNowhere(moved));
    } else {
      ASSERT_NO_FATAL_FAILURE(ExpectSomewhere(moved));
    }
    ASSERT_NO_FATAL_FAILURE(GoOn());
  }

 private:
  static constexpr const char* kModes[] = {"precopy", "postcopy", "auto"};

  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  uint64_t Below(uint64_t limit) { return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_); }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  static bool IsMarked(const std::string& path) { return fs::exists(path + ".incomplete"); }
  std::string MoveWords() const {
    return absl::StrCat("--mode ", mode_, " --channels ", channels_, " --recover-for ", recover_for_,
                        " --max-bandwidth ", kibibytes_a_second_, "K --max-postcopy-bandwidth 512K");
  }
  void Receive(bool existing) const {
    there_->Receive(absl::StrCat("--disk-copy root=", copy_, existing ? ",existing" : ""));
  }
  // Empty where there is no such machine.
  static Json InfoOf(const JournalMachine& machine) {
    Json info = Json::parse(machine.Ferrite("info web1 --json").out, nullptr, /*allow_exceptions=*/false);
    return info.is_object() ? info : Json::object();
  }

  // The journal, which is empty, and some data behind it; the rest are holes.
  void MakeImages() {
    const Fd fd(open(root_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(fd.get(), kImageBytes), 0);
    const std::string& cold = Cold();
    ASSERT_EQ(pwrite(fd.get(), cold.data(), cold.size(), kJournalBytes + kMiB), static_cast<ssize_t>(cold.size()));
    if (existing_) {
      const std::string& other = Other();
      const Fd copy(open(copy_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      ASSERT_EQ(pwrite(copy.get(), other.data(), other.size(), 0), static_cast<ssize_t>(other.size()));
    }
  }
  // What the guest does not touch, and what was in the file that is written over.
  static const std::string& Cold() {
    static const std::string* const kCold = new std::string(Junk(2 * kMiB, 1));
    return *kCold;
  }
  static const std::string& Other() {
    static const std::string* const kOther = new std::string(Junk(kImageBytes, 2));
    return *kOther;
  }
  static std::string Junk(uint64_t bytes, uint64_t salt) {
    std::string junk(bytes, '\0');
    for (size_t i = 0; i < junk.size(); ++i) {
      junk[i] = static_cast<char>((i + salt) * 2654435761 >> 13);
    }
    return junk;
  }

  // Calls `look` until it says so.
  template <typename Look>
  static void Await(absl::string_view what, absl::Duration between, const Look& look) {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (!look()) {
      ASSERT_LT(MonotonicTime::Now(), deadline) << what;
      absl::SleepFor(between);
    }
  }
  static bool HasThread(pid_t pid, absl::string_view name) {
    std::error_code ended;
    for (const auto& task : fs::directory_iterator(absl::StrCat("/proc/", pid, "/task"), ended)) {
      std::string its_name;
      std::ifstream(task.path() / "comm") >> its_name;
      if (its_name == name) {
        return true;
      }
    }
    return false;
  }
  void AwaitInstant(const FerriteProcess& move) const {
    const auto has_come = [&] {
      switch (since_) {
        case Since::kDevice:
          // The thread comes first, by milliseconds.
          return HasThread(here_->monitor().pid(), "mig-src-watch") ||
                 absl::StrContains(move.OutputSoFar(), R"("state":"device")");
        case Since::kGrant:
          return fs::exists(Path("a/web1/grant"));
        case Since::kWhole:
          return saw_mark_ && !IsMarked(copy_);
        default:
          return true;
      }
    };
    ASSERT_NO_FATAL_FAILURE(Await("the instant", absl::Microseconds(100), [&] {
      saw_mark_ = saw_mark_ || IsMarked(copy_);
      return has_come() || move.HasEnded();
    }));
    absl::SleepFor(after_);
  }
  void Strike() const {
    switch (fault_) {
      case Fault::kKillSource:
        here_->monitor().Signal(SIGKILL);
        (void)here_->monitor().Wait();
        break;
      case Fault::kKillDestination:
        there_->monitor().Signal(SIGKILL);
        (void)there_->monitor().Wait();
        break;
      case Fault::kCancel:
        // It may come too late.
        (void)here_->Ferrite("move web1 --cancel");
        break;
      default:
        there_->monitor().Signal(SIGSTOP);
        absl::SleepFor(stop_for_);
        there_->monitor().Signal(SIGCONT);
        break;
    }
  }

  // What the guest has written there at last, and how often it has said so.
  static std::vector<std::string> JournalOf(const JournalMachine& machine) { return machine.Reports("journal"); }
  // R2, seen from outside: what it said here is older than what it said there.
  void ExpectOneAfterTheOther() const {
    const std::vector<std::string> here = JournalOf(*here_);
    const std::vector<std::string> there = JournalOf(*there_);
    ASSERT_FALSE(here.empty());
    if (!there.empty()) {
      EXPECT_LE(JournalMachine::NumberIn(here.back(), "flushed="), JournalMachine::NumberIn(there.front(), "flushed="))
          << "R2: two runners";
    }
  }
  bool IsHandedOver() const {
    const Json info = InfoOf(*here_);
    return info.contains("move") && info["move"].is_object() && info["move"].value("guest", "") == "handed-over";
  }

  // The image at the destination is whole, so far as its name says.
  bool IsWhole() const {
    return fs::exists(copy_) && !IsMarked(copy_) && (!existing_ || FileContent(copy_) != Other());
  }
  // The guest did not run there: nothing is left of its disk (R3), or of a monitor that was killed what has its mark.
  void ExpectNothingThere(bool killed) const {
    EXPECT_TRUE(JournalOf(*there_).empty()) << "R2: it runs there";
    EXPECT_FALSE(IsWhole()) << "it is not marked";
    if (!existing_ && !killed) {
      EXPECT_FALSE(fs::exists(copy_)) << "R3: what it made is left";
      EXPECT_FALSE(IsMarked(copy_)) << "R3: the mark of what it made is left";
    }
  }
  static void ExpectHas(const std::string& path, uint64_t flushed) {
    const JournalImage image(path, JournalMachine::Slots());
    EXPECT_TRUE(image.IsOfOneInstant()) << path << ": " << image.Words();
    EXPECT_EQ(image.MissingUpTo(flushed), 0u) << path << " has not all up to " << flushed << ": " << image.Words();
    EXPECT_TRUE(FileContent(path).substr(kJournalBytes + kMiB, 2 * kMiB) == Cold()) << path;
  }
  // The guest is there, or was: it goes on with the image there, and the one here is of the switchover.
  void ExpectWent() {
    ran_there_ = true;
    EXPECT_TRUE(IsWhole()) << "it went, and its disk is no whole copy";
    ExpectHas(root_, here_->Flushed());
    right_ = copy_;
    flushed_ = std::max(here_->Flushed(), there_->Flushed());
  }
  void ExpectStayed() {
    right_ = root_;
    flushed_ = here_->Flushed();
  }

  // The destination ends, or waits for another machine.
  void EndReceiver() const {
    ASSERT_NO_FATAL_FAILURE(Await("the destination gives up", absl::Milliseconds(10), [&] {
      return there_->monitor().HasEnded() || InfoOf(*there_)["arrival"].is_null();
    }));
    (void)there_->Ferrite("stop web1");
    EXPECT_EQ(there_->monitor().Wait().exit_code, kExitFailure);
  }

  void ExpectSomewhere(const Finished& moved) {
    bool there = moved.exit_code == kExitOk;
    std::string said;
    for (int i = 0; i < 3 && !there && IsHandedOver(); ++i) {
      const Finished recovered = here_->Ferrite("recover web1");
      there = recovered.exit_code == kExitOk;
      absl::StrAppend(&said, "\n", recovered.exit_code, " ", recovered.out, recovered.err);
    }
    EXPECT_TRUE(there || struck_) << "it had no reason to fail";
    if (there) {
      EXPECT_EQ(here_->monitor().Wait().exit_code, kExitOk);
      ASSERT_NO_FATAL_FAILURE(there_->AwaitWrites());
      ExpectWent();
      ExpectOneAfterTheOther();
      there_->Stop();
      flushed_ = there_->Flushed();
      return;
    }
    EXPECT_FALSE(IsHandedOver()) << "R4: it was not found again:" << said;
    ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
    ASSERT_NO_FATAL_FAILURE(EndReceiver());
    ExpectNothingThere(/*killed=*/false);
    ExpectStayed();
    ASSERT_NO_FATAL_FAILURE(MoveAgain());
  }

  // The source was killed.
  void ExpectThereOrNowhere() {
    Json arrival;
    const MonotonicTime begin = MonotonicTime::Now();
    ASSERT_NO_FATAL_FAILURE(Await("what becomes of the destination", absl::Milliseconds(10), [&] {
      arrival = InfoOf(*there_)["arrival"];
      // It may wait long for GRANT; whatever it is then, it can be ended.
      return there_->monitor().HasEnded() || arrival.is_null() || arrival["over"] == true ||
             arrival["state"] == "postcopy-paused" ||
             MonotonicTime::Now() - begin > ForPlace(absl::Seconds(1), absl::Seconds(5));
    }));
    const bool lives = !there_->monitor().HasEnded();
    if (lives && arrival.is_object() && arrival["over"] == true && arrival["ok"] == true) {
      ASSERT_NO_FATAL_FAILURE(there_->AwaitWrites());
      there_->Stop();
      ExpectWent();
    } else {
      // It has what came, and waits for the rest for ever.
      if (!calmly_ && lives && arrival.is_object() && arrival["state"] == "postcopy-paused") {
        there_->monitor().Signal(SIGKILL);
      } else {
        (void)there_->Ferrite("stop web1");
      }
      (void)there_->monitor().Wait();
      if (IsWhole()) {
        ExpectWent();
      } else {
        ExpectNothingThere(/*killed=*/false);
        ExpectStayed();
      }
    }
    ExpectOneAfterTheOther();
  }

  // The destination was killed.
  void ExpectHereOrNowhere(const Finished& moved) {
    if (moved.exit_code == kExitOk) {
      EXPECT_EQ(here_->monitor().Wait().exit_code, kExitOk);
      ExpectWent();
      ExpectOneAfterTheOther();
      return;
    }
    const bool handed_over = IsHandedOver();
    if (!handed_over) {
      ExpectNothingThere(/*killed=*/true);
    } else if (IsWhole()) {
      ExpectWent();
      ExpectOneAfterTheOther();
      if (!calmly_) {
        // It is booted anew, with what the guest wrote last.
        const Finished stopped = here_->Ferrite("stop web1 --force");
        EXPECT_EQ(stopped.exit_code, kExitOk) << stopped.err;
        (void)here_->monitor().Wait();
        ExpectHas(root_, here_->Flushed());
        return;
      }
    }
    if (handed_over) {
      const size_t before = JournalOf(*here_).size();
      absl::SleepFor(absl::Milliseconds(20));
      EXPECT_EQ(JournalOf(*here_).size(), before) << "R2: nobody took it back";
      const Finished back = here_->Ferrite("recover web1 --here");
      ASSERT_EQ(back.exit_code, kExitOk) << back.err;
    }
    ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
    ExpectStayed();
    ASSERT_NO_FATAL_FAILURE(MoveAgain());
  }

  // The guest runs here, and goes over what a move before it left (R3).
  void MoveAgain() {
    const bool existing = fs::exists(copy_);
    if (!existing) {
      fs::remove(copy_ + ".incomplete");
    }
    Receive(existing);
    const Finished moved = here_->Ferrite(absl::StrCat("move web1 ", there_->address(), " --json --mode ", mode_));
    ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
    EXPECT_EQ(here_->monitor().Wait().exit_code, kExitOk);
    ASSERT_NO_FATAL_FAILURE(there_->AwaitWrites());
    EXPECT_FALSE(IsMarked(copy_));
    there_->Stop();
    ExpectHas(root_, here_->Flushed());
    ExpectOneAfterTheOther();
    right_ = copy_;
    flushed_ = there_->Flushed();
  }

  // A new monitor finds all of it.
  void GoOn() {
    ExpectHas(right_, flushed_);
    JournalMachine next(directory_, "c");
    next.Run(right_);
    ASSERT_NO_FATAL_FAILURE(next.AwaitFlushed(flushed_ + guest::kJournalBatch));
    const std::vector<std::string> found = next.Reports("found");
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(JournalMachine::NumberIn(found[0], "errors="), 0u) << found[0];
    EXPECT_GE(JournalMachine::NumberIn(found[0], "last="), flushed_) << found[0];
    next.Stop();
    ExpectHas(right_, next.Flushed());
  }

  std::mt19937_64 random_;
  const Fault fault_;
  const Since since_;
  const absl::Duration after_;
  const char* const mode_;
  const int channels_;
  const char* const recover_for_;
  const bool existing_;  // the copy goes over a file that was there, of other content
  const uint64_t kibibytes_a_second_;
  const absl::Duration stop_for_;
  const bool calmly_;  // whatever can be ended by a command or a kill, taken back or left
  std::string directory_;
  std::string root_;
  std::string copy_;
  std::string right_;
  uint64_t flushed_ = 0;  // that right_ has to have
  bool struck_ = false;
  bool ran_there_ = false;
  mutable bool saw_mark_ = false;
  std::unique_ptr<JournalMachine> here_;
  std::unique_ptr<JournalMachine> there_;
};

TEST(DiskMoveFaultsTest, DiskIsWholeWhereItsGuestRuns) { PlayCases<Case>(ForPlace(15, 3), "./dev faults --disks"); }

}  // namespace
}  // namespace ferrite
