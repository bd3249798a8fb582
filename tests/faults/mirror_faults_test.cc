// Monitors that are killed while they mirror a disk, each at a random instant of one: the guest keeps a journal on the
// disk (tests/guest/journal.cc). Afterwards the image that docs/mirror.md says is right has all that the guest knew to
// be flushed, a target that is no whole copy is marked, and a new monitor goes on with that image.
//
//   ./dev faults --mirrors N [SEED]   N cases, from SEED on (printed when it is drawn)
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
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

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kJournalBytes = JournalMachine::kJournalBytes;
constexpr uint64_t kImageBytes = 8 * kMiB;

// When the monitor is killed.
enum class Fault {
  kRunning,     // in the first pass
  kReady,       // the mirror follows the guest
  kPaused,      // by its user
  kCompleting,  // from the command until it was answered
  kCompleted,   // the machine goes on with the target
  kCancelling,  // from the command until it was answered
  kKeeping,     // the same, with --keep-copy
  kAgain,       // in the first pass of a second mirror, behind one that was completed
  kFaults,
};

const char* NameOf(Fault fault) {
  constexpr const char* kNames[] = {
      "running", "ready", "paused", "completing", "completed", "cancelling", "keeping a copy", "running a second time",
  };
  static_assert(std::size(kNames) == static_cast<size_t>(Fault::kFaults));
  return kNames[static_cast<int>(fault)];
}

class Case {
 public:
  explicit Case(uint64_t seed)
      : random_(seed),
        fault_(static_cast<Fault>(Below(static_cast<uint64_t>(Fault::kFaults)))),
        write_blocking_(Below(2) == 0),
        granularity_(Below(2) == 0 ? "4K" : "64K"),
        late_(Below(2) == 0),
        // As many short whiles as long ones.
        instant_(Below(2) == 0 ? Uniform() : std::pow(1000, -Uniform())) {
    // In memory: many flushes in a short time. Who is killed loses nothing of what its kernel has.
    char name[] = "/dev/shm/ferrite-faults-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    root_ = Path("root.img");
    machine_ = std::make_unique<JournalMachine>(directory_);
  }
  ~Case() {
    machine_.reset();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  std::string fault() const {
    return absl::StrCat("killed while ", NameOf(fault_), whole_ ? ": the target is whole" : "");
  }
  // Whether the monitor was killed before that was over.
  bool struck() const { return struck_; }
  std::string Words() const {
    return absl::StrCat(fault(), ", at ", instant_, " of that, ", write_blocking_ ? "write-blocking" : "background",
                        ", chunks of ", granularity_);
  }

  void Play() {
    ASSERT_NO_FATAL_FAILURE(MakeImage());
    machine_->Run(root_);
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitFlushed(1));
    std::string disk = root_;
    std::string target = Path("first.img");
    if (fault_ == Fault::kAgain) {
      ASSERT_NO_FATAL_FAILURE(Mirror(target, "--auto-complete"));
      disk = target;
      target = Path("second.img");
    }
    std::unique_ptr<FerriteProcess> command;
    bool answered = true;  // of `command`
    uint64_t before = 0;
    if (fault_ == Fault::kRunning || fault_ == Fault::kAgain) {
      // The first pass takes half a second and more.
      command = machine_->Start(MirrorWords(target, "--max-bandwidth 10M"));
      absl::SleepFor(Instant(absl::Milliseconds(600)));
      answered = command->HasEnded();
      struck_ = !answered;
    } else {
      ASSERT_NO_FATAL_FAILURE(Mirror(target, ""));
      if (fault_ == Fault::kPaused) {
        ASSERT_EQ(machine_->Ferrite("mirror web1 root --pause").exit_code, kExitOk);
      }
      before = machine_->Flushed();
      switch (fault_) {
        case Fault::kCompleting:
          command = machine_->Start("mirror web1 root --complete");
          break;
        case Fault::kCancelling:
          command = machine_->Start("mirror web1 root --cancel");
          break;
        case Fault::kKeeping:
          command = machine_->Start("mirror web1 root --cancel --keep-copy");
          break;
        case Fault::kCompleted: {
          const Finished completed = machine_->Ferrite("mirror web1 root --complete");
          ASSERT_EQ(completed.exit_code, kExitOk) << completed.err;
          break;
        }
        default:
          break;
      }
      const bool waits = late_ && command != nullptr;
      while (waits && fs::exists(target) && IsMarked(target) && !command->HasEnded()) {
        std::this_thread::yield();
      }
      // What is left then is little.
      absl::SleepFor(Instant(ForPlace(absl::Milliseconds(40), absl::Milliseconds(400))) / (waits ? 10 : 1));
      struck_ = command == nullptr || !command->HasEnded();
    }
    machine_->monitor().Signal(SIGKILL);
    ASSERT_EQ(machine_->monitor().Wait().exit_code, -1);
    if (command != nullptr) {
      answered = command->Wait().exit_code == kExitOk;
    }
    // It was told of, before it was killed.
    const uint64_t flushed = machine_->Flushed();
    ASSERT_NO_FATAL_FAILURE(FindTheRightOne(disk, target, answered, before, flushed));
    ASSERT_NO_FATAL_FAILURE(GoOn(right_, right_ == target ? Path("next.img") : target, flushed));
  }

 private:
  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  uint64_t Below(uint64_t limit) { return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_); }
  absl::Duration Instant(absl::Duration most) const { return most * instant_; }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  static bool IsMarked(const std::string& path) { return fs::exists(path + ".incomplete"); }

  std::string MirrorWords(const std::string& target, absl::string_view more) const {
    return absl::StrCat("mirror web1 root ", target, " --granularity ", granularity_, " --buffer 1M --copy-mode ",
                        write_blocking_ ? "write-blocking " : "background ", more);
  }
  void Mirror(const std::string& target, absl::string_view more) const {
    const Finished mirrored = machine_->Ferrite(MirrorWords(target, more));
    ASSERT_EQ(mirrored.exit_code, kExitOk) << mirrored.err;
  }

  // The journal, which is empty, and some data behind it; the rest are holes.
  void MakeImage() {
    const Fd fd(open(root_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(fd.get(), kImageBytes), 0);
    const std::string& data = ColdData();
    ASSERT_EQ(pwrite(fd.get(), data.data(), data.size(), kJournalBytes + kMiB), static_cast<ssize_t>(data.size()));
  }
  static const std::string& ColdData() {
    static const std::string* const kData = [] {
      auto* data = new std::string(2 * kMiB, '\0');
      for (size_t i = 0; i < data->size(); ++i) {
        (*data)[i] = static_cast<char>(i * 2654435761 >> 13);
      }
      return data;
    }();
    return *kData;
  }

  // Each file that is there is what it should be, and the one with which the machine has to go on is in right_.
  void FindTheRightOne(const std::string& disk, const std::string& target, bool answered, uint64_t before,
                       uint64_t flushed) {
    whole_ = fs::exists(target) && !IsMarked(target);
    right_ = disk;
    switch (fault_) {
      case Fault::kCompleting:
      case Fault::kCompleted:
        EXPECT_TRUE(whole_ || !answered) << "the machine went on with what is no whole copy";
        right_ = whole_ ? target : disk;
        break;
      case Fault::kKeeping:
        EXPECT_TRUE(whole_ || !answered) << "the copy is not whole";
        break;
      case Fault::kCancelling:
        EXPECT_FALSE(fs::exists(target) && answered) << "it was cancelled, and is there";
        EXPECT_FALSE(whole_);
        break;
      default:
        EXPECT_FALSE(whole_) << "it is not marked";
        break;
    }
    ExpectHas(right_, flushed);
    // The instants of the others are before that.
    ExpectHas(disk, before);
    if (whole_) {
      ExpectHas(target, before);
    }
    if (fault_ == Fault::kAgain) {
      ExpectHas(root_, 0);
    }
  }
  static void ExpectHas(const std::string& path, uint64_t flushed) {
    const JournalImage image(path, JournalMachine::Slots());
    EXPECT_TRUE(image.IsOfOneInstant()) << path << ": " << image.Words();
    EXPECT_EQ(image.MissingUpTo(flushed), 0u) << path << " has not all up to " << flushed << ": " << image.Words();
    EXPECT_TRUE(FileContent(path).substr(kJournalBytes + kMiB, 2 * kMiB) == ColdData()) << path;
  }

  // A new monitor finds all of it, and mirrors it again.
  void GoOn(const std::string& image, const std::string& target, uint64_t flushed) {
    machine_->Run(image);
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitFlushed(flushed + guest::kJournalBatch));
    const std::vector<std::string> found = machine_->Reports("found");
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(JournalMachine::NumberIn(found[0], "errors="), 0u) << found[0];
    EXPECT_GE(JournalMachine::NumberIn(found[0], "last="), flushed) << found[0];
    // What the killed one left is written over.
    if (!fs::exists(target)) {
      fs::remove(target + ".incomplete");
    }
    ASSERT_NO_FATAL_FAILURE(Mirror(target, fs::exists(target) ? "--auto-complete --existing" : "--auto-complete"));
    EXPECT_FALSE(IsMarked(target));
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
    machine_->Stop();
    ExpectHas(target, machine_->Flushed());
    ExpectHas(image, flushed);
  }

  std::mt19937_64 random_;
  const Fault fault_;
  const bool write_blocking_;
  const char* const granularity_;
  const bool late_;       // where a command is on: not before the target or its mark has gone
  const double instant_;  // 0 to 1
  std::string directory_;
  std::string root_;
  std::string right_;
  bool struck_ = false;
  bool whole_ = false;  // the target, when the monitor was killed
  std::unique_ptr<JournalMachine> machine_;
};

TEST(MirrorFaultsTest, KilledMonitorLosesNothingThatWasFlushed) {
  PlayCases<Case>(ForPlace(20, 3), "./dev faults --mirrors");
}

}  // namespace
}  // namespace ferrite
