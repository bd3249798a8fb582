// A machine's disks for a mirror, on real KVM, under a guest that writes and checks them (tests/guest/virtio.cc).
#include "vmm/machine/machine_disks.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "proto/machine.capnp.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/machine_harness.h"
#include "tests/fakes/test_place.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/movable_machine.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kImageBytes = uint64_t{2} << 20;
constexpr uint64_t kChunk = uint64_t{16} << 10;
constexpr absl::Duration kPatience = absl::Seconds(60);

// Keeps the chunks that were written, and gives tickets while it holds.
class FakeWitness final : public WriteWitness {
 public:
  explicit FakeWitness(bool hold = false) : hold_(hold) {}

  uint64_t Wrote(uint64_t offset, uint64_t bytes) override {
    absl::MutexLock lock(&mutex_);
    ++told_;
    for (uint64_t chunk = offset / kChunk; chunk * kChunk < offset + bytes; ++chunk) {
      dirty_.insert(chunk);
    }
    if (!hold_) {
      return 0;
    }
    tickets_.push_back(++last_ticket_);
    return last_ticket_;
  }
  std::set<uint64_t> TakeDirty() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(dirty_, {});
  }
  uint64_t told() const {
    absl::MutexLock lock(&mutex_);
    return told_;
  }
  // Whether it is told more than `before` times.
  bool AwaitTold(uint64_t before) const {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return told_ > before; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
  }
  // The newest first; empty at the deadline.
  std::vector<uint64_t> AwaitTickets() {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !tickets_.empty(); };
    mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
    std::vector<uint64_t> taken = std::exchange(tickets_, {});
    return {taken.rbegin(), taken.rend()};
  }

 private:
  const bool hold_;
  mutable absl::Mutex mutex_;
  std::set<uint64_t> dirty_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> tickets_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t told_ ABSL_GUARDED_BY(mutex_) = 0;
};

class MachineDisksTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-disks-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  ~MachineDisksTest() override {
    machine_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string MakeFile(const std::string& name, uint64_t bytes = kImageBytes) {
    const std::string path = absl::StrCat(directory_, "/", name);
    const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    return path;
  }
  // Created only.
  void Make(const std::string& options, bool second_disk = false) {
    MakeWith(absl::StrCat("blk_span=1M blk_chunk=", kChunk, " ", options), kImageBytes, second_disk);
  }
  void MakeWith(const std::string& options, uint64_t bytes, bool second_disk) {
    root_ = MakeFile("root.img", bytes);
    MachineConfig config = MachineHarness::Config("virtio", absl::StrCat("report_ms=10 fill=1M ", options));
    config.devices = {DiskConfig{.id = "root", .path = root_}};
    if (second_disk) {
      config.devices.push_back(DiskConfig{.id = "data", .path = MakeFile("data.img", 4096), .read_only = true});
    }
    machine_ = harness_.Create(config, &console_);
  }
  // Running.
  void Start(const std::string& options) {
    Make(options);
    ASSERT_EQ(machine_->Boot().ToString(), "OK");
    ASSERT_EQ(machine_->Resume().ToString(), "OK");
    ASSERT_TRUE(console_.Next("ready").has_value());
  }
  MachineDisks& disks() { return machine_->disks(); }

  // Waits until the guest has done `more` whole rounds of its disk, each of which it reads back and compares.
  void AwaitRounds(uint64_t more) {
    console_.SkipLines();
    uint64_t first = 0;
    for (bool begun = false;; begun = true) {
      const std::optional<GuestLine> line = console_.Next("virtio", kPatience);
      ASSERT_TRUE(line.has_value());
      ASSERT_EQ(line->Number("errors"), 0u) << line->text();
      if (!begun) {
        first = line->Number("blk_rounds");
      } else if (line->Number("blk_rounds") >= first + more) {
        return;
      }
    }
  }
  static void WriteAt(const std::string& path, uint64_t offset, const std::string& content) {
    const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_EQ(pwrite(fd.get(), content.data(), content.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(content.size()));
  }
  static void CopyChunks(const std::string& from, const std::string& to, const std::set<uint64_t>& chunks) {
    const std::string content = FileContent(from);
    for (const uint64_t chunk : chunks) {
      WriteAt(to, chunk * kChunk, content.substr(chunk * kChunk, kChunk));
    }
  }
  static std::unique_ptr<DiskImage> Open(const std::string& path, bool read_only = false) {
    auto image = DiskImage::Create(path, read_only);
    EXPECT_TRUE(image.ok()) << image.status();
    return image.ok() ? *std::move(image) : nullptr;
  }
  // All that tells others of the path.
  void ExpectPath(const std::string& path) {
    ASSERT_EQ(machine_->config().all<DiskConfig>().size(), 1u);
    const MachineConfig config = machine_->config();
    EXPECT_EQ(config.all<DiskConfig>()[0]->path, path);
    EXPECT_EQ(disks().List()[0].path, path);
    EXPECT_EQ(disks()
                  .WithImage("root",
                             [&](const DiskImage& image) {
                               EXPECT_EQ(image.path(), path);
                               return absl::OkStatus();
                             })
                  .ToString(),
              "OK");
    capnp::MallocMessageBuilder message;
    auto description = message.initRoot<state::MachineDescription>();
    ASSERT_EQ(machine_->moving().Describe(description).ToString(), "OK");
    EXPECT_EQ(std::string(description.getDisks()[0].getPath().cStr()), path);
    EXPECT_EQ(description.getDisks()[0].getBytes(), kImageBytes);
  }

  MachineHarness harness_;
  GuestConsole console_;
  std::string directory_;
  std::string root_;
  std::unique_ptr<Machine> machine_;
};

TEST_F(MachineDisksTest, SaysWhichThereAre) {
  Make("", /*second_disk=*/true);
  const std::vector<MachineDisks::Disk> list = disks().List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].id, "root");
  EXPECT_EQ(list[0].path, root_);
  EXPECT_EQ(list[0].bytes, kImageBytes);
  EXPECT_FALSE(list[0].read_only);
  EXPECT_EQ(list[1].id, "data");
  EXPECT_EQ(list[1].bytes, 4096u);
  EXPECT_TRUE(list[1].read_only);

  const auto use = [](const DiskImage& image) { return absl::AbortedError(absl::StrCat("used ", image.sectors())); };
  EXPECT_EQ(disks().WithImage("data", use).message(), "used 8");
  EXPECT_EQ(disks().CheckDisk("data"), absl::OkStatus());
  const auto nothing = [] { return absl::OkStatus(); };
  FakeWitness witness;
  for (const absl::Status& status :
       {disks().CheckDisk("dat"), disks().WithImage("dat", use), disks().SetWitness("dat", &witness),
        disks().AtStandstill("dat", nothing), disks().ReplaceImage("dat", nullptr).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(status.message(), "the machine has no disk \"dat\"; its disks: root, data");
  }
  disks().AnswerHeld("dat", 1);
  disks().AnswerHeld("root", 1);
}

// Every write that was answered before is in the old image, which stays as it was, and all after it in the new one.
TEST_F(MachineDisksTest, ReplacesTheImageOfAGuestThatWrites) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=0"));
  const std::string other = MakeFile("other.img");
  std::string from = root_;
  std::string to = other;
  AwaitRounds(1);
  const int replacements = ForPlace(12, 3);
  for (int i = 0; i < replacements; ++i) {
    std::unique_ptr<DiskImage> image = Open(to);
    std::unique_ptr<DiskImage> old;
    std::string before;
    ASSERT_EQ(disks()
                  .AtStandstill("root",
                                [&] {
                                  before = FileContent(from);
                                  WriteAt(to, 0, before);
                                  auto replaced = disks().ReplaceImage("root", std::move(image));
                                  if (replaced.ok()) {
                                    old = *std::move(replaced);
                                  }
                                  return replaced.status();
                                })
                  .ToString(),
              "OK");
    ASSERT_NE(old, nullptr);
    EXPECT_EQ(old->path(), from);
    EXPECT_TRUE(old->held());
    EXPECT_EQ(machine_->state(), MachineState::kRunning);
    ASSERT_NO_FATAL_FAILURE(AwaitRounds(2));
    EXPECT_TRUE(FileContent(from) == before) << "the old one was written";
    EXPECT_FALSE(FileContent(to) == before) << "the new one was not";
    EXPECT_FALSE(DiskImage::Create(to, /*read_only=*/true).ok()) << "the new one is not locked";
    ASSERT_NO_FATAL_FAILURE(ExpectPath(to));
    old.reset();
    std::swap(from, to);
  }

  // A reset keeps it, and so does who gives the disks away and takes them back.
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  const std::string left = FileContent(to);
  const std::string before = FileContent(from);
  ASSERT_EQ(machine_->Reset().ToString(), "OK");
  ASSERT_EQ(machine_->moving().ReleaseDisks({}).ToString(), "OK");
  EXPECT_NE(Open(from), nullptr) << "the machine had another one";
  ASSERT_EQ(machine_->moving().AcquireDisks().ToString(), "OK");
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  ASSERT_TRUE(console_.Next("ready").has_value());
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));
  ExpectPath(from);
  EXPECT_FALSE(FileContent(from) == before);
  EXPECT_TRUE(FileContent(to) == left);
  ASSERT_EQ(machine_->Reset().ToString(), "OK");
  ASSERT_TRUE(console_.Next("ready").has_value());
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));
  ExpectPath(from);
  EXPECT_TRUE(FileContent(to) == left);
  EXPECT_THAT(console_.errors(), IsEmpty());
}

// A mirror of the simplest kind: with what it was told, it has the whole disk.
TEST_F(MachineDisksTest, AWitnessIsToldOfEveryWrite) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=1"));
  const std::string copy = MakeFile("copy.img");
  FakeWitness witness;
  ASSERT_EQ(disks().SetWitness("root", &witness).ToString(), "OK");
  WriteAt(copy, 0, FileContent(root_));
  for (int round = 0; round < ForPlace(8, 2); ++round) {
    ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));
    CopyChunks(root_, copy, witness.TakeDirty());
    if (round % 3 == 1) {
      ASSERT_EQ(machine_->Pause().ToString(), "OK");
      ASSERT_EQ(machine_->Resume().ToString(), "OK");
    }
    ASSERT_EQ(disks()
                  .AtStandstill("root",
                                [&] {
                                  CopyChunks(root_, copy, witness.TakeDirty());
                                  EXPECT_TRUE(FileContent(root_) == FileContent(copy)) << "in round " << round;
                                  return absl::OkStatus();
                                })
                  .ToString(),
              "OK");
  }
  EXPECT_GT(witness.told(), 0u);
  ASSERT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
  const uint64_t told = witness.told();
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));
  EXPECT_EQ(witness.told(), told);
}

TEST_F(MachineDisksTest, AnswersWaitForTheWitness) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=1"));
  FakeWitness witness(/*hold=*/true);
  ASSERT_EQ(disks().SetWitness("root", &witness).ToString(), "OK");
  std::atomic<bool> ending{false};
  std::thread answers([&] {
    while (!ending) {
      for (const uint64_t ticket : witness.AwaitTickets()) {
        disks().AnswerHeld("root", ticket);
      }
    }
  });
  AwaitRounds(3);
  ending = true;
  EXPECT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
  // Where it waits for a ticket still, there will be one.
  (void)witness.Wrote(0, 1);
  answers.join();
  EXPECT_THAT(console_.errors(), IsEmpty());
}

// One that never answers holds up the guest, and nobody else.
TEST_F(MachineDisksTest, NoOperationWaitsForTheWitness) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=0"));
  FakeWitness silent(/*hold=*/true);
  ASSERT_EQ(disks().SetWitness("root", &silent).ToString(), "OK");
  ASSERT_TRUE(silent.AwaitTold(0));
  uint64_t before = 0;
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  before = silent.told();
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  ASSERT_TRUE(silent.AwaitTold(before)) << "what was held was not answered, or nobody told of the next";
  const auto look = [&] {
    before = silent.told();
    return absl::OkStatus();
  };
  ASSERT_EQ(disks().AtStandstill("root", look).ToString(), "OK");
  ASSERT_TRUE(silent.AwaitTold(before));
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  ASSERT_EQ(machine_->Reset().ToString(), "OK");
  before = silent.told();
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  ASSERT_TRUE(silent.AwaitTold(before)) << "it is there after a reset";
  ASSERT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(2));
  before = silent.told();
  ASSERT_EQ(disks().SetWitness("root", &silent).ToString(), "OK");
  ASSERT_TRUE(silent.AwaitTold(before));
  machine_->Stop();
  const uint64_t told = silent.told();
  disks().AnswerHeld("root", 1);
  EXPECT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
  EXPECT_EQ(silent.told(), told);
  EXPECT_THAT(console_.errors(), IsEmpty());
}

TEST_F(MachineDisksTest, OneWitnessAtATime) {
  Make("");
  FakeWitness one;
  FakeWitness other;
  EXPECT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
  EXPECT_EQ(disks().SetWitness("root", &one).ToString(), "OK");
  EXPECT_EQ(disks().SetWitness("root", &one).ToString(), "OK");
  EXPECT_EQ(disks().SetWitness("root", &other).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
  EXPECT_EQ(disks().SetWitness("root", &other).ToString(), "OK");
  EXPECT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
}

TEST_F(MachineDisksTest, TheGuestRunsOnWhileItsDiskStandsStill) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=0"));
  AwaitRounds(1);
  const absl::Status refused = disks().AtStandstill("root", [&] {
    const std::string before = FileContent(root_);
    console_.SkipLines();
    const std::optional<GuestLine> first = console_.Next("virtio", kPatience);
    // Nothing of it waits for this: who looks at the machine is answered.
    EXPECT_EQ(machine_->state(), MachineState::kRunning);
    EXPECT_EQ(machine_->config().devices.size(), 1u);
    EXPECT_EQ(disks().List().size(), 1u);
    for (int i = 0; i < 5; ++i) {
      const std::optional<GuestLine> line = console_.Next("virtio", kPatience);
      EXPECT_TRUE(line.has_value());
      if (line.has_value() && first.has_value()) {
        EXPECT_EQ(line->Number("blk_rounds"), first->Number("blk_rounds"));
      }
    }
    EXPECT_TRUE(FileContent(root_) == before);
    return absl::AbortedError("no matter");
  });
  EXPECT_EQ(refused.message(), "no matter");
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(2));
  const absl::Status starved = disks().AtStandstill("root", []() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(starved.code(), absl::StatusCode::kResourceExhausted);
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(2));
}

TEST_F(MachineDisksTest, OfAMachineThatDoesNotRunToo) {
  Make("discard=0");
  const std::string other = MakeFile("other.img");
  const auto replace = [&](const std::string& path) {
    return disks().AtStandstill("root", [&] { return disks().ReplaceImage("root", Open(path)).status(); });
  };
  EXPECT_EQ(replace(other).ToString(), "OK");
  EXPECT_EQ(machine_->state(), MachineState::kCreated);
  ASSERT_EQ(machine_->Boot().ToString(), "OK");
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  const std::string before = FileContent(other);
  WriteAt(root_, 0, before);
  EXPECT_EQ(replace(root_).ToString(), "OK");
  EXPECT_EQ(machine_->state(), MachineState::kPaused);
  const size_t lines = console_.line_count();
  EXPECT_FALSE(console_.NewLine(lines, absl::Milliseconds(50)));
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));
  EXPECT_TRUE(FileContent(other) == before);
  ExpectPath(root_);
}

// What waits in the queue of a disk that has much to do waits until the machine is resumed.
TEST_F(MachineDisksTest, APausedMachinesDiskStandsStillAfterwardsToo) {
  // Reads, with nothing for the guest to do but to ask for the next: more than may be in flight.
  MakeWith("blk_span=1G blk_chunk=4M blk_cold=8M", uint64_t{1} << 30, /*second_disk=*/false);
  ASSERT_EQ(machine_->Boot().ToString(), "OK");
  uint64_t bytes = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(machine_->Resume().ToString(), "OK");
    for (const uint64_t enough = bytes + (32 << 20); bytes < enough;) {
      const std::optional<GuestLine> line = console_.Next("virtio", kPatience);
      ASSERT_TRUE(line.has_value());
      bytes = line->Number("blk_bytes");
    }
    ASSERT_EQ(machine_->Pause().ToString(), "OK");
    const std::vector<uint8_t> before = MemoryImage(*machine_);
    ASSERT_EQ(disks().AtStandstill("root", [] { return absl::OkStatus(); }).ToString(), "OK");
    // Long enough for a request, if one was taken.
    EXPECT_FALSE(console_.NewLine(console_.line_count(), absl::Milliseconds(50)));
    EXPECT_TRUE(MemoryImage(*machine_) == before);
  }
}

TEST_F(MachineDisksTest, RefusesWhatDoesNotFitAndTheOldOneStays) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=0"));
  const std::string other = MakeFile("other.img");
  const auto replace = [&](std::unique_ptr<DiskImage> image) {
    return disks().AtStandstill("root", [&] { return disks().ReplaceImage("root", std::move(image)).status(); });
  };
  EXPECT_EQ(disks().ReplaceImage("root", Open(other)).status().message(),
            "the machine's disk root goes on with its image: it does not stand still");
  for (const uint64_t bytes : {kImageBytes - 512, kImageBytes + 512}) {
    const std::string odd = MakeFile("odd.img", bytes);
    EXPECT_EQ(replace(Open(odd)).message(),
              absl::StrCat("disk image ", odd, " has ", bytes, " bytes, the disk root has ", kImageBytes));
    EXPECT_NE(Open(odd), nullptr) << "it is closed";
  }
  EXPECT_EQ(replace(Open(other, /*read_only=*/true)).message(),
            absl::StrCat("disk image ", other, " is read-only, the disk root is written"));
  EXPECT_EQ(replace(*DiskImage::CreateReleased(other, /*read_only=*/false)).message(),
            absl::StrCat("disk image ", other, " is released"));
  EXPECT_THAT(disks().ReplaceImage("root", Open(other)).status().message(), HasSubstr("does not stand still"));
  ExpectPath(root_);
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(1));

  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  ASSERT_EQ(machine_->moving().ReleaseDisks({}).ToString(), "OK");
  const std::string released = absl::StrCat("the machine's disk root is released: another monitor may have ", root_);
  EXPECT_EQ(replace(Open(other)).message(), released);
  EXPECT_EQ(disks().WithImage("root", [](const DiskImage&) { return absl::OkStatus(); }).message(), released);
  ASSERT_EQ(machine_->moving().AcquireDisks().ToString(), "OK");
  machine_->Stop();
  EXPECT_EQ(replace(Open(other)).message(),
            "cannot bring the disk root to a standstill: the machine is stopped (requested)");
  EXPECT_EQ(disks().List()[0].path, root_);
}

TEST_F(MachineDisksTest, ADiskIsReplacedAtItsOwnStandstillOnly) {
  Make("", /*second_disk=*/true);
  const std::string other = MakeFile("other.img", 4096);
  const auto replace = [&](const std::string& still, const std::string& id, bool read_only) {
    return disks().AtStandstill(still, [&] { return disks().ReplaceImage(id, Open(other, read_only)).status(); });
  };
  EXPECT_THAT(replace("root", "data", true).message(), HasSubstr("disk data goes on with its image"));
  EXPECT_EQ(replace("data", "data", false).message(),
            absl::StrCat("disk image ", other, " is open for writing, the disk data is read-only"));
  EXPECT_EQ(replace("data", "data", true).ToString(), "OK");
  EXPECT_EQ(disks().List()[0].path, root_);
  EXPECT_EQ(disks().List()[1].path, other);
  EXPECT_TRUE(disks().List()[1].read_only);
}

TEST_F(MachineDisksTest, OperationsMayRace) {
  ASSERT_NO_FATAL_FAILURE(Start("discard=1"));
  const std::string other = MakeFile("other.img");
  const int times = ForPlace(40, 5);
  std::atomic<bool> ending{false};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (int i = 0; i < times; ++i) {
      EXPECT_EQ(machine_->Pause().ToString(), "OK");
      EXPECT_EQ(machine_->Resume().ToString(), "OK");
      if (i % 10 == 9) {
        EXPECT_EQ(machine_->Reset().ToString(), "OK");
      }
    }
  });
  threads.emplace_back([&] {
    FakeWitness silent(/*hold=*/true);
    while (!ending) {
      EXPECT_EQ(disks().SetWitness("root", &silent).ToString(), "OK");
      for (uint64_t ticket = 1; ticket < silent.told(); ++ticket) {
        disks().AnswerHeld("root", ticket);
      }
      EXPECT_EQ(disks().SetWitness("root", nullptr).ToString(), "OK");
    }
  });
  threads.emplace_back([&] {
    while (!ending) {
      EXPECT_THAT(machine_->config().devices.size(), 1u);
      EXPECT_THAT(disks().List()[0].path, testing::AnyOf(root_, other));
    }
  });
  std::string from = root_;
  std::string to = other;
  for (int i = 0; i < times; ++i) {
    std::unique_ptr<DiskImage> image = Open(to);
    EXPECT_EQ(disks()
                  .AtStandstill("root",
                                [&] {
                                  WriteAt(to, 0, FileContent(from));
                                  return disks().ReplaceImage("root", std::move(image)).status();
                                })
                  .ToString(),
              "OK");
    std::swap(from, to);
  }
  threads[0].join();
  ending = true;
  threads[1].join();
  threads[2].join();
  ASSERT_NO_FATAL_FAILURE(AwaitRounds(2));
  ExpectPath(from);
  EXPECT_THAT(console_.errors(), IsEmpty());
}

}  // namespace
}  // namespace ferrite
