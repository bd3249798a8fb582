// Faults by the hundred, with machines: monitors that are processes, a guest that checks its own memory, and one fault
// at a random instant of its move. Afterwards the guest runs exactly once, or does what docs/failure.md says, with the
// command from there (R1-R4). Who runs is seen from outside, in what the guests write to their consoles.
//
//   ./dev faults --machines N [SEED]   N cases (6), from SEED on (printed when it is drawn)
//
// As root: some of them break a network of their own (tests/fakes/network.h), or fill a disk.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/channel/socket/address.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/network.h"
#include "tests/fakes/relay.h"
#include "tests/fakes/test_thread.h"
#include "tests/faults/play_cases.h"
#include "vmm/app/exit_codes.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// What a move of the guest sends, about: instants are drawn from there.
constexpr double kMoveBytes = 9 << 20;
// Each vCPU looks at each page of its set once in so many writes of both.
constexpr uint64_t kWritesOfASweep = 2 * 2048;
// Slow: pre-copy ends also where several such moves share a processor.
constexpr char kGuest[] = "mode=step set=8M report_ms=10 rate=4000";
// For what takes a moment; 30 s of it are the longest wait of the product's own.
constexpr absl::Duration kPatience = absl::Seconds(60);

enum class Fault {
  kKillSource,
  kKillDestination,
  kStopSource,  // for up to 3 s, and now and then for longer than the other side waits
  kStopDestination,
  kReset,       // all connections
  kResetTwice,  // and once more when they are there again
  kLostThere,   // what goes to the destination is dropped without a word
  kLostBack,    // what comes from it
  kFlippedBit,  // on the way to the destination
  kLostBytes,   // likewise: a few, and then it goes on
  kLate,        // pieces are late, each connection for itself
  kSlow,        // a network, or a peer, that takes little at a time
  kCancel,
  kSecondMove,   // of the same machine, elsewhere
  kSecondGuest,  // another machine, to the same destination
  kKillCommand,  // `ferrite move`, which is not the move
  // These pass.
  kNoDescriptorsHere,
  kNoDescriptorsThere,
  kNoMemoryHere,
  kNoMemoryThere,
  kFullDisk,  // of the source, where the record of the hand-over is
  // Of a network, between two hosts.
  kPulledCable,
  kDroppedThere,
  kDroppedBack,
  kRefusedThere,  // by a firewall, with a reset
  kRefusedBack,
  kNewAddress,  // of the destination, which a person says afterwards
  kFaults,
};

const char* NameOf(Fault fault) {
  constexpr const char* kNames[] = {
      "source killed",
      "destination killed",
      "source stopped",
      "destination stopped",
      "reset",
      "reset twice",
      "lost on the way there",
      "lost on the way back",
      "flipped bit",
      "lost bytes",
      "late",
      "slow",
      "cancel",
      "second move",
      "second guest",
      "command killed",
      "no descriptors at the source",
      "no descriptors at the destination",
      "no memory at the source",
      "no memory at the destination",
      "full disk",
      "pulled cable",
      "packets dropped on the way there",
      "packets dropped on the way back",
      "packets refused on the way there",
      "packets refused on the way back",
      "new address",
  };
  static_assert(std::size(kNames) == static_cast<size_t>(Fault::kFaults));
  return kNames[static_cast<int>(fault)];
}

// How much a guest has written to its consoles, by reports.
struct Written {
  size_t here = SIZE_MAX;
  size_t there = SIZE_MAX;
};

class Case {
 public:
  explicit Case(uint64_t seed)
      : seed_(seed),
        random_(seed),
        fault_(static_cast<Fault>(Below(static_cast<uint64_t>(Fault::kFaults)))),
        mode_(kModes[Below(std::size(kModes))]),
        // As many small instants as large ones: most messages are in the first kilobytes.
        instant_(static_cast<uint64_t>(Below(2) == 0 ? std::pow(2.0, Uniform() * std::log2(kMoveBytes))
                                                     : Uniform() * kMoveBytes)),
        stop_for_(Below(8) == 0 ? absl::Seconds(12) : absl::Seconds(3) * Uniform()) {
    char name[] = "/tmp/ferrite-faults-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    // The test's own may be a link, and --boot-from follows none.
    fs::copy_file("tests/guest/dirty", KernelPath());
    fs::permissions(KernelPath(), fs::perms::owner_all);
  }
  ~Case() {
    if (beside_.joinable()) {
      beside_.Join();
    }
    receiver_.reset();
    source_.reset();
    other_.reset();
    if (mounted_) {
      // A child of another case may hold a file there for a moment.
      EXPECT_EQ(umount2((directory_ + "/here").c_str(), MNT_DETACH), 0) << strerror(errno);
    }
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  std::string fault() const { return NameOf(fault_); }
  // Whether the fault came before the move was over.
  bool struck() const { return struck_; }
  std::string Words() const {
    return absl::StrCat(NameOf(fault_), " after ", instant_, " bytes, ", mode_, ", for ",
                        absl::FormatDuration(stop_for_), " where it passes");
  }

  void Play() {
    ASSERT_NO_FATAL_FAILURE(Prepare());
    source_ = Run("here");
    AwaitReport("here", /*writes=*/1);
    std::string address = StartReceiver();
    if (network_ == nullptr) {
      ASSERT_NO_FATAL_FAILURE(PutRelay(address));
      address = relay_->address().ToString();
    }
    const std::vector<std::string> move =
        Words("here", absl::StrCat("move web1 ", address, " --mode ", mode_,
                                   " --downtime-limit 300ms --recover-for 3s --max-postcopy-bandwidth ",
                                   Below(2) == 0 ? "64M" : "8M"));
    move_ = std::make_unique<FerriteProcess>(move);
    commanded_.Notify();
    if (network_ != nullptr) {
      beside_ = StartOrDie("network", [this, address] { BreakNetwork(address); });
    }
    const Finished moved = move_->Wait();
    if (network_ != nullptr) {
      moved_ = true;
      beside_.Join();
    }
    struck_ = struck_ || (relay_ != nullptr && relay_->damages() > 0);
    SCOPED_TRACE(absl::StrCat("move: ", moved.exit_code, " ", moved.err));
    if (struck_ && fault_ == Fault::kKillSource) {
      ExpectNoneOrAllThere();
    } else if (struck_ && fault_ == Fault::kKillDestination) {
      ExpectTakenBack(moved);
    } else {
      ExpectRunsSomewhere(moved);
    }
  }

 private:
  static constexpr const char* kModes[] = {"precopy", "postcopy", "auto"};

  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  uint64_t Below(uint64_t limit) { return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_); }

  std::string KernelPath() const { return directory_ + "/vmlinuz"; }
  std::string ConsoleOf(const std::string& side) const { return absl::StrCat(directory_, "/", side, ".console"); }
  // Each side has its own base for run directories, so that one name is free at both.
  std::vector<std::string> Words(const std::string& side, absl::string_view words) const {
    std::vector<std::string> list = absl::StrSplit(words, ' ', absl::SkipEmpty());
    list.push_back("--run-dir");
    list.push_back(absl::StrCat(directory_, "/", side));
    return list;
  }
  Finished Ferrite(const std::string& side, absl::string_view words) const { return RunFerrite(Words(side, words)); }
  // Empty where there is no such machine.
  Json Info(const std::string& side) const {
    Json info = Json::parse(Ferrite(side, "info web1 --json").out, nullptr, /*allow_exceptions=*/false);
    return info.is_object() ? info : Json::object();
  }
  // What has to be there before the machines are.
  void Prepare() {
    if (fault_ >= Fault::kPulledCable) {
      auto network = Network::Create();
      ASSERT_TRUE(network.ok()) << network.status();
      network_ = *std::move(network);
    }
    if (fault_ == Fault::kFullDisk) {
      ASSERT_TRUE(fs::create_directory(directory_ + "/here"));
      ASSERT_EQ(mount("none", (directory_ + "/here").c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=256k"), 0)
          << strerror(errno);
      mounted_ = true;
    }
  }
  void PutRelay(const std::string& address) {
    auto relay = migration::Relay::Create(directory_ + "/relay", *migration::ParseAddress(address));
    ASSERT_TRUE(relay.ok()) << relay.status();
    relay_ = *std::move(relay);
    if (fault_ == Fault::kFlippedBit) {
      relay_->DamageAfter(instant_, migration::Relay::Damage::kFlip);
    } else if (fault_ == Fault::kLostBytes) {
      relay_->DamageAfter(instant_, migration::Relay::Damage::kLoss);
    } else if (fault_ == Fault::kLate) {
      relay_->DelayBy(absl::Milliseconds(1));
      struck_ = true;
    } else {
      relay_->ActAfter(instant_, [this] { Strike(); });
    }
  }
  std::unique_ptr<FerriteProcess> Run(const std::string& side) const {
    std::vector<std::string> words = Words(side, absl::StrCat("run --name web1 --kernel ", KernelPath(),
                                                              " --mem 64M --cpus 2 --console file:", ConsoleOf(side)));
    words.push_back("--cmdline");
    words.push_back(kGuest);
    return std::make_unique<FerriteProcess>(words, /*user=*/0, [this] {
      if (network_ != nullptr) {
        network_->EnterHere();
      }
    });
  }
  std::string StartReceiver() {
    FerriteReceiver started = StartFerriteReceiver(
        Words("there",
              absl::StrCat("receive --name web1 --listen ",
                           network_ != nullptr ? "tcp:0.0.0.0:0" : absl::StrCat("unix:", directory_, "/socket"),
                           " --console file:", ConsoleOf("there"), " --boot-from ", directory_)),
        [this] {
          if (network_ != nullptr) {
            network_->EnterThere();
          }
        });
    receiver_ = std::move(started.process);
    return absl::StrReplaceAll(started.address, {{"0.0.0.0", "10.77.0.2"}});
  }

  void Strike() {
    struck_ = true;
    switch (fault_) {
      case Fault::kKillSource:
        source_->Signal(SIGKILL);
        break;
      case Fault::kKillDestination:
        receiver_->Signal(SIGKILL);
        break;
      case Fault::kStopSource:
        StopFor(*source_);
        break;
      case Fault::kStopDestination:
        StopFor(*receiver_);
        break;
      case Fault::kReset:
        relay_->Cut();
        break;
      case Fault::kResetTwice:
        relay_->ActAfter(instant_ / 4 + 1, [this] { relay_->Cut(); });
        relay_->Cut();
        break;
      case Fault::kLostThere:
        relay_->Lose(/*to_destination=*/true);
        break;
      case Fault::kLostBack:
        relay_->Lose(/*to_destination=*/false);
        break;
      case Fault::kSlow:
        // More than the guest writes.
        relay_->SlowTo(uint64_t{32} << 20);
        break;
      case Fault::kCancel:
        beside_ = StartOrDie("cancel", [this] { (void)Ferrite("here", "move web1 --cancel"); });
        break;
      case Fault::kSecondMove:
        beside_ = StartOrDie("second-move", [this] {
          SCOPED_TRACE(absl::StrCat(Words(), ", seed ", seed_));
          const Finished second = Ferrite("here", absl::StrCat("move web1 unix:", directory_, "/elsewhere"));
          EXPECT_NE(second.exit_code, kExitOk);
        });
        break;
      case Fault::kSecondGuest:
        beside_ = StartOrDie("second-guest", [this] {
          SCOPED_TRACE(absl::StrCat(Words(), ", seed ", seed_));
          other_ = Run("other");
          AwaitReport("other", /*writes=*/1);
          const Finished second =
              Ferrite("other", absl::StrCat("move web1 unix:", directory_, "/socket --patience 1s"));
          EXPECT_NE(second.exit_code, kExitOk);
          AwaitReport("other", kWritesOfASweep);
        });
        break;
      case Fault::kKillCommand:
        // It may have come that far before this process knows it.
        commanded_.WaitForNotification();
        move_->Signal(SIGKILL);
        break;
      case Fault::kNoDescriptorsHere:
        Starve(*source_, RLIMIT_NOFILE);
        break;
      case Fault::kNoDescriptorsThere:
        Starve(*receiver_, RLIMIT_NOFILE);
        break;
      case Fault::kNoMemoryHere:
        Starve(*source_, RLIMIT_AS);
        break;
      case Fault::kNoMemoryThere:
        Starve(*receiver_, RLIMIT_AS);
        break;
      case Fault::kFullDisk:
        FillDisk();
        break;
      default:
        break;
    }
  }
  void StopFor(const FerriteProcess& monitor) {
    monitor.Signal(SIGSTOP);
    EndLater([&monitor] { monitor.Signal(SIGCONT); });
  }
  static rlim_t HighestDescriptorOf(pid_t pid) {
    rlim_t highest = 0;
    std::error_code ended;
    for (const auto& entry : fs::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ended)) {
      rlim_t fd = 0;
      highest = absl::SimpleAtoi(entry.path().filename().string(), &fd) ? std::max(highest, fd) : highest;
    }
    return highest;
  }
  // All that is mapped, in bytes.
  static rlim_t MemoryOf(pid_t pid) {
    rlim_t pages = 0;
    std::ifstream(absl::StrCat("/proc/", pid, "/statm")) >> pages;
    return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  }
  // The monitor gets no more of it until that passes.
  void Starve(const FerriteProcess& monitor, __rlimit_resource resource) {
    const pid_t pid = monitor.pid();
    rlimit before;
    // One that has ended already wants nothing.
    if (prlimit(pid, resource, nullptr, &before) != 0) {
      return;
    }
    // What it has it may use: poll(2) fails where the limit is below the number of what is polled.
    const rlimit no_more{.rlim_cur = resource == RLIMIT_NOFILE ? HighestDescriptorOf(pid) + 1 : MemoryOf(pid),
                         .rlim_max = before.rlim_max};
    (void)prlimit(pid, resource, &no_more, nullptr);
    EndLater([pid, resource, before] { (void)prlimit(pid, resource, &before, nullptr); });
  }
  void FillDisk() {
    const std::string filler = directory_ + "/here/filler";
    std::ofstream file(filler);
    const std::string block(4096, 'x');
    while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
    EndLater([filler] {
      std::error_code error;
      fs::remove(filler, error);
      EXPECT_FALSE(error) << error.message();
    });
  }
  void EndLater(std::function<void()> end) {
    beside_ = StartOrDie("end-of-fault", [this, end = std::move(end)] {
      absl::SleepFor(stop_for_);
      end();
    });
  }

  // Until the move is over or has met it, and then for as long as it lasts.
  void BreakNetwork(const std::string& address) {
    SCOPED_TRACE(absl::StrCat(Words(), ", seed ", seed_));
    const bool rule = fault_ != Fault::kPulledCable && fault_ != Fault::kNewAddress;
    const bool leaving = fault_ == Fault::kDroppedThere || fault_ == Fault::kRefusedThere;
    const bool dropped = fault_ == Fault::kDroppedThere || fault_ == Fault::kDroppedBack;
    // What comes back is little.
    const uint64_t bytes = leaving ? instant_ : instant_ / 128;
    if (rule) {
      EXPECT_EQ(network_->RuleAfter(bytes, leaving, dropped ? Network::Verdict::kDropped : Network::Verdict::kReset),
                absl::OkStatus());
      while (!moved_ && !network_->Met()) {
        absl::SleepFor(absl::Milliseconds(50));
      }
      struck_ = network_->Met();
    } else {
      // As long into the move as so many bytes take at about the slower of its rates.
      absl::SleepFor(absl::Seconds(1) * (static_cast<double>(instant_) / (8 << 20)));
      struck_ = !moved_;
      EXPECT_EQ(fault_ == Fault::kNewAddress ? network_->MoveThere() : network_->PullCable(), absl::OkStatus());
    }
    if (struck_) {
      absl::SleepFor(stop_for_);
    }
    if (rule) {
      EXPECT_EQ(network_->RemoveRule(), absl::OkStatus());
    } else if (fault_ == Fault::kPulledCable) {
      EXPECT_EQ(network_->PlugCable(), absl::OkStatus());
    } else {
      new_address_ = absl::StrReplaceAll(address, {{"10.77.0.2", "10.77.0.3"}});
    }
  }

  // Calls `look` until it says so.
  template <typename Look>
  void Await(const std::string& what, const Look& look) const {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (!look()) {
      ASSERT_LT(MonotonicTime::Now(), deadline) << what;
      absl::SleepFor(absl::Milliseconds(10));
    }
  }
  // All that the guest has written there, a report a line, without a half one at the end.
  std::vector<std::string> ReportsOf(const std::string& side) const {
    std::stringstream text;
    text << std::ifstream(ConsoleOf(side)).rdbuf();
    std::vector<std::string> lines = absl::StrSplit(text.str(), '\n');
    lines.pop_back();
    std::erase_if(lines, [](const std::string& line) { return !absl::StartsWith(line, "event=dirty"); });
    return lines;
  }
  static uint64_t NumberIn(const std::string& line, absl::string_view name) {
    for (const absl::string_view field : absl::StrSplit(line, ' ')) {
      uint64_t number = 0;
      if (absl::StartsWith(field, name) && absl::SimpleAtoi(field.substr(name.size()), &number)) {
        return number;
      }
    }
    ADD_FAILURE() << name << " is not in: " << line;
    return 0;
  }
  // Waits until the guest, which runs there, has written so many times since now; each looks at what was there (R1).
  void AwaitReport(const std::string& side, uint64_t writes) const {
    const size_t before = ReportsOf(side).size();
    Await(absl::StrCat("that the guest writes ", side), [&] {
      const std::vector<std::string> reports = ReportsOf(side);
      return reports.size() > before &&
             NumberIn(reports.back(), "writes=") - NumberIn(reports[before], "writes=") >= writes;
    });
    const std::vector<std::string> reports = ReportsOf(side);
    ASSERT_FALSE(reports.empty());
    EXPECT_EQ(NumberIn(reports.back(), "errors="), 0u) << "R1: " << reports.back();
  }

  void ExpectRuns(const std::string& side) {
    ASSERT_EQ(Info(side)["state"], "running") << side;
    // Nothing that it can find later is wrong: all of it is looked at once.
    AwaitReport(side, 2 * kWritesOfASweep);
  }
  // The source lives.
  bool IsHandedOver() const {
    Json info = Info("here");
    return info["state"] == "paused" && info["move"]["guest"] == "handed-over";
  }

  void ExpectRunsSomewhere(const Finished& moved) {
    bool there = moved.exit_code == kExitOk;
    if (fault_ == Fault::kKillCommand && !there) {
      // Its move is not gone: the source's monitor ends by itself.
      Await("the move's end", [&] { return Info("here").empty(); });
      there = true;
    }
    std::string said;
    for (int i = 0; i < 3 && !there && IsHandedOver(); ++i) {
      const Finished recovered = Ferrite("here", absl::StrCat("recover web1 ", new_address_));
      there = recovered.exit_code == kExitOk;
      absl::StrAppend(&said, "\n", recovered.exit_code, " ", recovered.out, recovered.err);
    }
    EXPECT_FALSE(IsHandedOver()) << "R4: it was not found again:" << said;
    if (beside_.joinable()) {
      beside_.Join();
    }
    const bool harmless = fault_ == Fault::kSecondMove || fault_ == Fault::kSecondGuest ||
                          fault_ == Fault::kKillCommand || fault_ == Fault::kLate || fault_ == Fault::kSlow;
    EXPECT_TRUE(there || (struck_ && !harmless)) << "it had no reason to fail";
    ExpectRuns(there ? "there" : "here");
    ExpectOneAfterTheOther();
    EXPECT_EQ(ReportsOf("there").empty(), !there) << "R2";
  }
  // R2, seen from outside, at the end of a case: what the guest wrote last here is older than what it wrote first
  // there, by its own count. `taken_back_at`: how much it had written, by side, when a person took it back; the rest it
  // wrote here.
  Written WrittenSoFar() const { return {.here = ReportsOf("here").size(), .there = ReportsOf("there").size()}; }
  void ExpectOneAfterTheOther(const Written& taken_back_at = {}) const {
    const std::vector<std::string> here = ReportsOf("here");
    const std::vector<std::string> there = ReportsOf("there");
    EXPECT_LE(there.size(), taken_back_at.there) << "R2: it was taken back and runs there";
    const size_t before = std::min(here.size(), taken_back_at.here);
    ASSERT_GT(before, 0u);
    if (!there.empty()) {
      EXPECT_LE(NumberIn(here[before - 1], "writes="), NumberIn(there.front(), "writes=")) << "R2: two runners";
    }
    for (const auto& reports : {here, there}) {
      for (size_t i = 1; i < reports.size(); ++i) {
        ASSERT_LE(NumberIn(reports[i - 1], "writes="), NumberIn(reports[i], "writes=")) << "R2: two wrote here";
      }
    }
  }

  // A guest whose source was killed is gone with its host, unless it has all of its memory at the destination.
  void ExpectNoneOrAllThere() {
    Json arrival;
    Await("what becomes of the destination", [&] {
      arrival = Info("there")["arrival"];
      // Of a machine that was not accepted it knows nothing, and waits for another one.
      return receiver_->HasEnded() || arrival.is_null() || arrival["over"] == true ||
             arrival["state"] == "postcopy-paused";
    });
    if (!receiver_->HasEnded() && arrival.is_object() && arrival["over"] == true) {
      ExpectRuns("there");
      ExpectOneAfterTheOther();
      return;
    }
    const bool waits_for_pages = !receiver_->HasEnded() && !arrival.is_null();
    (void)Ferrite("there", "stop web1");
    EXPECT_EQ(receiver_->Wait().exit_code, waits_for_pages ? kExitOk : kExitFailure);
    if (waits_for_pages) {
      EXPECT_TRUE(absl::StrContains(Ferrite("here", "ps").out, "handed over to "));
    }
    ExpectOneAfterTheOther();
  }

  // A guest whose destination was killed runs at the source, where a person says so if it may have run there.
  void ExpectTakenBack(const Finished& moved) {
    (void)receiver_->Wait();
    if (moved.exit_code == kExitOk) {
      // It had moved, and is gone with its host.
      Await("the move's end", [&] { return Info("here").empty(); });
      ExpectOneAfterTheOther();
      return;
    }
    Written at;
    if (IsHandedOver()) {
      relay_.reset();
      at = WrittenSoFar();
      const Finished back = Ferrite("here", "recover web1 --here");
      ASSERT_EQ(back.exit_code, kExitOk) << back.err;
    } else {
      EXPECT_TRUE(ReportsOf("there").empty()) << "R2: it ran there, and nobody took it back";
    }
    ExpectRuns("here");
    ExpectOneAfterTheOther(at);
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  const Fault fault_;
  const char* const mode_;
  const uint64_t instant_;
  const absl::Duration stop_for_;
  std::string directory_;
  std::atomic<bool> struck_{false};
  std::unique_ptr<FerriteProcess> source_;
  std::unique_ptr<FerriteProcess> receiver_;
  std::unique_ptr<FerriteProcess> other_;
  std::unique_ptr<FerriteProcess> move_;
  absl::Notification commanded_;  // that move_ is there
  std::atomic<bool> moved_{false};
  bool mounted_ = false;  // the directory of the source's machines
  Thread beside_;
  std::unique_ptr<migration::Relay> relay_;
  std::unique_ptr<Network> network_;
  std::string new_address_;  // that the destination has, where it is another one
};

TEST(MachineFaultsTest, GuestRunsOnceWithAllItsMemory) { PlayCases<Case>(6, "./dev faults --machines"); }

}  // namespace
}  // namespace ferrite
