// NBD servers that are killed or stand still while a disk is mirrored to them, each at a random instant. Who writes to
// the disk goes on and loses nothing, a mirror whose server is gone fails, one whose server only stood still goes on,
// and what is said to be a whole copy is one (docs/mirror.md). No machine: the writer is a thread.
//
//   ./dev faults --mirrors N [SEED]   N cases, from SEED on (printed when it is drawn)
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/fake_disks.h"
#include "tests/fakes/journal_image.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/told_mirror.h"
#include "tests/fakes/waiting_mirrors.h"
#include "tests/faults/play_cases.h"
#include "vmm/mirror/mirrors.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using migration::CopyMode;
using migration::ErrorPolicy;
using migration::MirrorState;

constexpr uint64_t kSlots = 512;
constexpr uint64_t kImageBytes = uint64_t{4} << 20;
constexpr absl::Duration kPatience = absl::Seconds(60);
// What a write may wait for a target that does nothing, 2 s, on a host that has other work; and that of a disk that
// stands still for the end, 20 s.
constexpr absl::Duration kLongestWrite = absl::Seconds(8);
constexpr absl::Duration kLongestStandstill = absl::Seconds(28);

enum class Fault {
  kKilled,
  kStopped,              // for up to a second
  kStoppedAndKilled,     // after that
  kStoppedAndCancelled,  // while it stands still
  kFaults,
};
enum class When { kRunning, kReady, kKeeping, kWhens };

template <typename Kind, size_t size>
const char* NameIn(const char* const (&names)[size], Kind kind) {
  return names[static_cast<size_t>(kind)];
}

class Case {
 public:
  explicit Case(uint64_t seed)
      : random_(seed),
        fault_(static_cast<Fault>(Below(static_cast<uint64_t>(Fault::kFaults)))),
        when_(static_cast<When>(Below(static_cast<uint64_t>(When::kWhens)))),
        qemu_(Below(2) == 0),
        mode_(Below(2) == 0 ? CopyMode::kWriteBlocking : CopyMode::kBackground),
        policy_(static_cast<ErrorPolicy>(Below(4))),
        instant_(Below(2) == 0 ? Uniform() : std::pow(1000, -Uniform())),
        stop_for_(absl::Seconds(1) * Uniform()) {
    // In memory: many writes in a short time.
    char name[] = "/dev/shm/ferrite-faults-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    root_ = directory_ + "/root.img";
  }
  ~Case() {
    stop_writer_ = true;
    writer_.Join();
    mirrors_.reset();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  std::string fault() const {
    constexpr const char* kFaults[] = {"killed", "stopped", "stopped, then killed", "stopped, and cancelled"};
    constexpr const char* kWhens[] = {"running", "ready", "keeping a copy"};
    return absl::StrCat(qemu_ ? "qemu-nbd " : "nbdkit ", NameIn(kFaults, fault_), " while ", NameIn(kWhens, when_));
  }
  // Whether the mirror was on when the server met its fault.
  bool struck() const { return struck_; }
  std::string Words() const {
    return absl::StrCat(fault(), ", at ", instant_, " of that, for ", absl::FormatDuration(stop_for_), ", ",
                        migration::CopyModeName(mode_), ", ", migration::ErrorPolicyName(policy_));
  }

  void Play() {
    ASSERT_NO_FATAL_FAILURE(Begin());
    const std::string copy = directory_ + "/copy.img";
    std::optional<NbdServer> server = Serve(copy);
    ASSERT_TRUE(server.has_value());
    MirrorRequest request = {.disk = "root",
                             .target = server->where(),
                             .options = {.granularity = 16 << 10,
                                         .buffer_bytes = 1 << 20,
                                         .copy_mode = mode_,
                                         .max_bandwidth = when_ == When::kRunning ? uint64_t{8} << 20 : 0,
                                         .on_target_error = policy_}};
    ASSERT_EQ(mirrors_->Start(request).status().ToString(), "OK");
    if (when_ != When::kRunning) {
      told_.AwaitState(MirrorState::kReady);
    }
    const uint64_t before = flushed_;
    absl::Status kept = absl::UnknownError("was not asked for");
    Thread keeper;
    std::atomic<bool> keeping = false;
    if (when_ == When::kKeeping) {
      keeping = true;
      keeper = StartOrDie("keeper", [&] {
        kept = mirrors_->Cancel("root", /*keep_copy=*/true);
        keeping = false;
      });
    }
    absl::SleepFor((when_ == When::kRunning ? absl::Milliseconds(400) : absl::Milliseconds(20)) * instant_);
    struck_ = when_ == When::kKeeping ? keeping.load() : !mirrors_->Status("root")->over;
    Strike(*server);
    if (fault_ == Fault::kStoppedAndCancelled) {
      // It is over when this returns, whatever the server does.
      (void)mirrors_->Cancel("root", /*keep_copy=*/false);
      EXPECT_TRUE(mirrors_->Status("root")->over);
      server->process().Signal(SIGCONT);
    }
    AwaitWrites();
    keeper.Join();
    ASSERT_NO_FATAL_FAILURE(ExpectEnd(*server, kept, copy, before));
    server.reset();
    ASSERT_NO_FATAL_FAILURE(MirrorAgain());
  }

 private:
  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  uint64_t Below(uint64_t limit) { return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_); }

  // The disk, and who writes to it.
  void Begin() {
    const Fd fd(open(root_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(fd.get(), kImageBytes), 0);
    auto image = DiskImage::Create(root_, /*read_only=*/false);
    ASSERT_TRUE(image.ok()) << image.status();
    disks_ = std::make_unique<FakeDisks>(*std::move(image));
    mirrors_ = std::make_unique<WaitingMirrors>(*disks_, told_.Listener());
    writer_ = StartOrDie("writer", [this] { Write(); });
    // All of the journal is there.
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (flushed_ < kSlots) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
      std::this_thread::yield();
    }
  }
  void Write() {
    std::string block(guest::kJournalBlockBytes, '\0');
    while (!stop_writer_) {
      const uint64_t flushed = flushed_;
      for (uint64_t number = flushed + 1; number <= flushed + guest::kJournalBatch; ++number) {
        guest::FillJournalBlock(reinterpret_cast<volatile uint64_t*>(block.data()), number, flushed);
        const MonotonicTime begin = MonotonicTime::Now();
        const absl::Status written =
            disks_->Write(guest::JournalSlot(number, kSlots) * guest::kJournalBlockBytes, block);
        EXPECT_TRUE(written.ok()) << written;
        EXPECT_LT(MonotonicTime::Now() - begin, when_ == When::kKeeping ? kLongestStandstill : kLongestWrite);
      }
      flushed_ = flushed + guest::kJournalBatch;
      absl::SleepFor(absl::Microseconds(200));
    }
  }
  void AwaitWrites() const {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    for (const uint64_t enough = flushed_ + 2 * guest::kJournalBatch; flushed_ < enough;) {
      ASSERT_LT(MonotonicTime::Now(), deadline) << "nothing is written any more";
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  // A new file of the disk's size.
  std::optional<NbdServer> Serve(const std::string& path) const {
    const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), kImageBytes), 0);
    auto server = qemu_ ? NbdServer::Qemu(sockets_, path) : NbdServer::Nbdkit(sockets_, {"file", path});
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? std::optional(*std::move(server)) : std::nullopt;
  }
  void Strike(const NbdServer& server) const {
    server.process().Signal(fault_ == Fault::kKilled ? SIGKILL : SIGSTOP);
    if (fault_ == Fault::kStopped || fault_ == Fault::kStoppedAndKilled) {
      absl::SleepFor(stop_for_);
      server.process().Signal(fault_ == Fault::kStopped ? SIGCONT : SIGKILL);
    }
  }

  void ExpectEnd(const NbdServer& server, const absl::Status& kept, const std::string& copy, uint64_t before) {
    if (when_ != When::kKeeping && fault_ == Fault::kStopped) {
      // Nothing of it was lost.
      told_.AwaitState(MirrorState::kReady);
      ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
      ExpectHas(copy, before);
      return;
    }
    const MirrorStatus mirror = told_.AwaitOver();
    if (when_ == When::kKeeping && kept.ok()) {
      EXPECT_EQ(mirror.end, MirrorEnd::kKept);
      ExpectHas(copy, before);
      return;
    }
    // There is a reason for it.
    EXPECT_EQ(mirror.end, MirrorEnd::kLeft);
    if (fault_ == Fault::kStoppedAndCancelled) {
      EXPECT_FALSE(mirror.result.ok());
    } else {
      EXPECT_NE(fault_, Fault::kStopped) << "it only stood still: " << mirror.result << ", " << kept;
      EXPECT_EQ(mirror.figures.state, MirrorState::kFailed);
      EXPECT_TRUE(absl::StrContains(mirror.result.message(), server.socket())) << mirror.result;
    }
  }
  static void ExpectHas(const std::string& path, uint64_t flushed) {
    const JournalImage image(path, kSlots);
    EXPECT_TRUE(image.IsOfOneInstant()) << path << ": " << image.Words();
    EXPECT_EQ(image.MissingUpTo(flushed), 0u) << path << " has not all up to " << flushed << ": " << image.Words();
  }

  void MirrorAgain() {
    EXPECT_FALSE(disks_->has_witness());
    const std::string target = directory_ + "/next.img";
    ASSERT_EQ(mirrors_
                  ->Start({.disk = "root",
                           .target = target,
                           .options = {.granularity = 16 << 10, .buffer_bytes = 1 << 20, .copy_mode = mode_}})
                  .status()
                  .ToString(),
              "OK");
    told_.AwaitState(MirrorState::kReady);
    ASSERT_EQ(mirrors_->Complete("root").ToString(), "OK");
    AwaitWrites();
    stop_writer_ = true;
    writer_.Join();
    ExpectHas(target, flushed_);
    ExpectHas(root_, 0);
  }

  std::mt19937_64 random_;
  const Fault fault_;
  const When when_;
  const bool qemu_;
  const CopyMode mode_;
  const ErrorPolicy policy_;
  const double instant_;  // 0 to 1
  const absl::Duration stop_for_;
  const ShortDirectory sockets_;
  std::string directory_;
  std::string root_;
  ToldMirror told_;
  std::unique_ptr<FakeDisks> disks_;
  std::unique_ptr<WaitingMirrors> mirrors_;
  std::atomic<bool> stop_writer_ = false;
  std::atomic<uint64_t> flushed_ = 0;  // number
  bool struck_ = false;
  Thread writer_;
};

TEST(MirrorServerFaultsTest, WriterGoesOnAndCopiesAreWhole) { PlayCases<Case>(30, "./dev faults --mirrors"); }

}  // namespace
}  // namespace ferrite
