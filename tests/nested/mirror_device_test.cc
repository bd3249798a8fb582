// A disk is mirrored on devices that fail: reads of the source, writes below the target, and no room there, by the
// kernel's device mapper. The policies do what docs/mirror.md says, and the guest, which keeps a journal on the disk
// (tests/guest/journal.cc), sees none of it. And a machine moves with its disk, from device to device.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "tests/fakes/child_process.h"
#include "tests/fakes/journal_image.h"
#include "tests/fakes/journal_machine.h"
#include "tests/fakes/mapped_device.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using ::testing::HasSubstr;
using Part = MappedDevice::Part;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kSectors = kMiB / 512;  // of a MiB
constexpr uint64_t kDiskMiB = 8;
constexpr absl::Duration kPatience = absl::Seconds(120);
constexpr char kFailed[] = "Input/output error";
constexpr char kFull[] = "No space left on device";

// Of a RAM disk (brd: 16 MiB each).
std::string RamDisk(int number) { return absl::StrCat("/dev/ram", number); }
Part Whole(int number, uint64_t mib) {
  return {.sectors = mib * kSectors, .target = "linear", .words = RamDisk(number) + " 0"};
}

// A MiB of the disk's data, which is not in the journal, fails.
std::vector<Part> Broken(int number) {
  return {Whole(number, 5),
          {.sectors = kSectors, .target = "error"},
          {.sectors = 2 * kSectors, .target = "linear", .words = absl::StrCat(RamDisk(number), " ", 6 * kSectors)}};
}

class MirrorDeviceTest : public testing::Test {
 protected:
  MirrorDeviceTest() {
    fs::create_directories(directory_);
    machine_.emplace(directory_);
  }
  ~MirrorDeviceTest() override {
    machine_.reset();
    if (mounted_) {
      EXPECT_EQ(umount2(FileSystem().c_str(), 0), 0) << strerror(errno);
    }
    fs::remove_all(directory_);
  }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  std::string FileSystem() const { return Path("fs"); }

  static std::string ColdData() {
    std::string data(3 * kMiB, '\0');
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<char>(1 + i % 251);
    }
    return data;
  }
  // An empty journal and some data behind it; all of the disk that is not in the journal.
  static void FillDisk(const std::string& path) {
    const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    std::string content(kDiskMiB * kMiB, '\0');
    content.replace(kDiskMiB / 2 * kMiB, 3 * kMiB, ColdData());
    ASSERT_EQ(pwrite(fd.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size())) << path;
    ASSERT_EQ(fsync(fd.get()), 0);
  }
  static void ExpectHas(const std::string& path, uint64_t flushed) {
    const JournalImage image(path, JournalMachine::Slots());
    EXPECT_TRUE(image.IsOfOneInstant()) << path << ": " << image.Words();
    EXPECT_EQ(image.MissingUpTo(flushed), 0u) << path << " has not all up to " << flushed << ": " << image.Words();
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string cold(3 * kMiB, '\0');
    EXPECT_EQ(pread(fd.get(), cold.data(), cold.size(), kDiskMiB / 2 * kMiB), static_cast<ssize_t>(cold.size()));
    EXPECT_TRUE(cold == ColdData()) << path;
  }
  std::optional<MappedDevice> Map(const std::string& name, const std::vector<Part>& parts) {
    auto device = MappedDevice::Create(name, parts);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? std::optional(*std::move(device)) : std::nullopt;
  }
  void MakeFileSystem(const std::string& device) {
    auto maker = ChildProcess::Start({"tests/nested/mke2fs", "-q", "-t", "ext4", device}, {.error = STDERR_FILENO});
    ASSERT_TRUE(maker.ok()) << maker.status();
    const auto made = maker->Wait(kPatience);
    ASSERT_TRUE(made.ok() && made->exited && made->number == 0) << made.status();
    ASSERT_TRUE(fs::create_directory(FileSystem()));
    ASSERT_EQ(mount(device.c_str(), FileSystem().c_str(), "ext4", 0, nullptr), 0) << strerror(errno);
    mounted_ = true;
  }

  void Run(const std::string& disk) {
    machine_->Run(disk);
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitFlushed(1));
  }
  static std::string MirrorWords(const std::string& target, const std::string& more = "") {
    return absl::StrCat("mirror web1 root ", target, " ", more);
  }
  Finished Mirror(const std::string& words) const { return machine_->Ferrite("mirror web1 root " + words); }
  // Of the disk's last mirror.
  Json Status() const { return Json::parse(Mirror("--status --json").out, nullptr, /*allow_exceptions=*/false); }
  void AwaitStatus(const std::string& what, const std::function<bool(const Json&)>& is) const {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    for (Json status = Status(); !status.is_object() || !is(status); status = Status()) {
      ASSERT_LT(MonotonicTime::Now(), deadline) << "it is not " << what << ": " << status;
      absl::SleepFor(absl::Milliseconds(50));
    }
  }
  void AwaitStopped(const std::string& cause) {
    AwaitStatus("stopped", [&](const Json& status) {
      return status["state"] == "paused" && status["cause"].is_string() &&
             status["cause"].get<std::string>().find(cause) != std::string::npos;
    });
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  }
  void AwaitTriedAgain() {
    // So little may be left that it is ready.
    AwaitStatus("tried again", [](const Json& status) { return status["over"] == false && status["errors"] >= 3; });
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  }
  // That one fails by itself, and leaves nothing but the machine.
  void ExpectFails(const std::string& target, const std::string& more, const std::string& why) {
    const Finished failed = machine_->Ferrite(MirrorWords(target, more));
    EXPECT_EQ(failed.exit_code, 1);
    EXPECT_THAT(failed.err, HasSubstr(why));
    EXPECT_EQ(Status()["state"], "failed");
    EXPECT_FALSE(fs::exists(target) || fs::exists(target + ".incomplete"));
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  }
  // One that is ready gives a copy.
  void ExpectCopies(const std::string& target) {
    const uint64_t before = machine_->Flushed();
    const Finished kept = Mirror("--cancel --keep-copy");
    ASSERT_EQ(kept.exit_code, 0) << kept.err;
    ExpectHas(target, before);
    ASSERT_TRUE(fs::remove(target));
  }

  const std::string directory_ = absl::StrCat(getenv("TEST_TMPDIR"), "/m");
  std::optional<JournalMachine> machine_;
  bool mounted_ = false;
};

// The source: a part of it cannot be read, until it is mended.
TEST_F(MirrorDeviceTest, ReadErrorsOfTheSource) {
  ASSERT_NO_FATAL_FAILURE(FillDisk(RamDisk(0)));
  auto disk = Map("source", Broken(0));
  ASSERT_TRUE(disk.has_value());
  ASSERT_NO_FATAL_FAILURE(Run(disk->path()));
  const std::string target = Path("copy.img");
  ASSERT_NO_FATAL_FAILURE(ExpectFails(target, "--on-source-error enospc --on-target-error ignore", kFailed));

  auto mirror = machine_->Start(MirrorWords(target, "--on-source-error ignore"));
  ASSERT_NO_FATAL_FAILURE(AwaitTriedAgain());
  ASSERT_EQ(disk->Load({Whole(0, kDiskMiB)}).ToString(), "OK");
  ASSERT_EQ(mirror->Wait().exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(ExpectCopies(target));

  // What was read is in the kernel's cache.
  ASSERT_EQ(ioctl(Fd(open(disk->path().c_str(), O_RDONLY | O_CLOEXEC)).get(), BLKFLSBUF, 0), 0);
  ASSERT_EQ(disk->Load(Broken(0)).ToString(), "OK");
  mirror = machine_->Start(MirrorWords(target, "--on-source-error stop"));
  ASSERT_NO_FATAL_FAILURE(AwaitStopped(kFailed));
  ASSERT_EQ(disk->Load({Whole(0, kDiskMiB)}).ToString(), "OK");
  ASSERT_EQ(Mirror("--resume").exit_code, 0);
  ASSERT_EQ(mirror->Wait().exit_code, 0);
  ASSERT_EQ(Mirror("--complete").exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  machine_->Stop();
  ExpectHas(target, machine_->Flushed());
}

// The same where the disk moves with its machine: the move ends at once, and not as one whose connection is lost.
TEST_F(MirrorDeviceTest, ReadErrorOfTheSourceEndsAMove) {
  ASSERT_NO_FATAL_FAILURE(FillDisk(RamDisk(0)));
  auto disk = Map("source", Broken(0));
  ASSERT_TRUE(disk.has_value());
  ASSERT_NO_FATAL_FAILURE(Run(disk->path()));
  const std::string copy = Path("copy.img");
  JournalMachine there(directory_, "there");
  const auto receive = [&] { there.Receive("--disk-copy root=" + copy); };
  const std::string move = absl::StrCat("move web1 ", there.address(), " --recover-for 10m");
  receive();
  const Finished failed = machine_->Ferrite(move);
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, HasSubstr("disk root: read "));
  EXPECT_THAT(failed.err, HasSubstr(kFailed));
  EXPECT_THAT(failed.err, HasSubstr("web1 runs on here"));
  EXPECT_NE(there.monitor().Wait().exit_code, 0);
  EXPECT_FALSE(fs::exists(copy) || fs::exists(copy + ".incomplete"));
  ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());

  ASSERT_EQ(disk->Load({Whole(0, kDiskMiB)}).ToString(), "OK");
  receive();
  const Finished moved = machine_->Ferrite(move);
  ASSERT_EQ(moved.exit_code, 0) << moved.err;
  EXPECT_EQ(machine_->monitor().Wait().exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(there.AwaitWrites());
  const uint64_t flushed = there.Flushed();
  there.Stop();
  ExpectHas(copy, flushed);
}

// A file system that is full, until somebody makes room.
TEST_F(MirrorDeviceTest, FullTarget) {
  ASSERT_NO_FATAL_FAILURE(FillDisk(Path("root.img")));
  auto device = Map("full", {Whole(1, 16)});
  ASSERT_TRUE(device.has_value());
  ASSERT_NO_FATAL_FAILURE(MakeFileSystem(device->path()));
  const std::string filler = FileSystem() + "/filler";
  const auto fill = [&] {
    std::ofstream file(filler);
    const std::string block(65536, 'x');
    while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  };
  fill();
  ASSERT_NO_FATAL_FAILURE(Run(Path("root.img")));
  const std::string target = FileSystem() + "/copy.img";
  ASSERT_NO_FATAL_FAILURE(ExpectFails(target, "--on-source-error ignore", kFull));

  auto mirror = machine_->Start(MirrorWords(target, "--on-target-error ignore"));
  ASSERT_NO_FATAL_FAILURE(AwaitTriedAgain());
  ASSERT_TRUE(fs::remove(filler));
  ASSERT_EQ(mirror->Wait().exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(ExpectCopies(target));

  fill();
  mirror = machine_->Start(MirrorWords(target, "--on-target-error enospc"));
  ASSERT_NO_FATAL_FAILURE(AwaitStopped(kFull));
  // Nothing is better yet.
  ASSERT_EQ(Mirror("--resume").exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(AwaitStopped(kFull));
  ASSERT_TRUE(fs::remove(filler));
  ASSERT_EQ(Mirror("--resume").exit_code, 0);
  ASSERT_EQ(mirror->Wait().exit_code, 0);
  ASSERT_EQ(Mirror("--complete").exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  machine_->Stop();
  ExpectHas(target, machine_->Flushed());
}

// Writes that are lost below the target: in a file, and in a block device. Those that went past the host's page cache
// fail, and are tried again or stop the mirror, as its policy says; what the kernel took and lost fails with the flush,
// and so does the mirror. The machine never goes on with what is not there.
TEST_F(MirrorDeviceTest, WritesThatAreLostBelowTheTarget) {
  ASSERT_NO_FATAL_FAILURE(FillDisk(Path("root.img")));
  ASSERT_NO_FATAL_FAILURE(Run(Path("root.img")));
  const auto expect_not_completed = [&] {
    const Finished completed = Mirror("--complete");
    EXPECT_NE(completed.exit_code, 0);
    const Json status = Status();
    EXPECT_NE(status["state"], "completed") << status;
    if (status["over"] == false) {
      EXPECT_EQ(Mirror("--cancel").exit_code, 0);
    }
    ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  };
  auto below = Map("below", {Whole(2, 16)});
  ASSERT_TRUE(below.has_value());
  ASSERT_NO_FATAL_FAILURE(MakeFileSystem(below->path()));
  const std::string file = FileSystem() + "/copy.img";
  ASSERT_EQ(machine_->Ferrite(MirrorWords(file, "--on-target-error ignore")).exit_code, 0);
  // No write succeeds for an hour.
  ASSERT_EQ(
      below->Load({{.sectors = 16 * kSectors, .target = "flakey", .words = RamDisk(2) + " 0 0 3600 1 error_writes"}})
          .ToString(),
      "OK");
  ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  ASSERT_NO_FATAL_FAILURE(expect_not_completed());
  ASSERT_EQ(below->Load({Whole(2, 16)}).ToString(), "OK");

  auto device = Map("target", Broken(3));
  ASSERT_TRUE(device.has_value());
  auto mirror = machine_->Start(MirrorWords(device->path(), "--existing --on-target-error stop"));
  ASSERT_NO_FATAL_FAILURE(AwaitStopped(kFailed));
  ASSERT_NO_FATAL_FAILURE(expect_not_completed());
  EXPECT_NE(mirror->Wait().exit_code, 0);
  ASSERT_EQ(device->Load({Whole(3, kDiskMiB)}).ToString(), "OK");
  const Finished again = machine_->Ferrite(MirrorWords(device->path(), "--existing --auto-complete"));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  ASSERT_NO_FATAL_FAILURE(machine_->AwaitWrites());
  machine_->Stop();
  ExpectHas(Path("root.img"), 0);
  ExpectHas(device->path(), machine_->Flushed());
}

// A machine whose disk is a block device moves to where it is another one, which had something else on it.
TEST_F(MirrorDeviceTest, MachineMovesFromBlockDeviceToBlockDevice) {
  ASSERT_NO_FATAL_FAILURE(FillDisk(RamDisk(4)));
  auto disk = Map("here", {Whole(4, kDiskMiB)});
  auto target = Map("there", {Whole(5, kDiskMiB)});
  ASSERT_TRUE(disk.has_value() && target.has_value());
  const std::string other(kDiskMiB * kMiB, '\xff');
  ASSERT_EQ(pwrite(Fd(open(target->path().c_str(), O_WRONLY | O_CLOEXEC)).get(), other.data(), other.size(), 0),
            static_cast<ssize_t>(other.size()));
  ASSERT_NO_FATAL_FAILURE(Run(disk->path()));
  {
    JournalMachine there(directory_, "there");
    ASSERT_NO_FATAL_FAILURE(there.Receive(absl::StrCat("--disk-copy root=", target->path(), ",existing")));
    const Finished moved = machine_->Ferrite(absl::StrCat("move web1 ", there.address()));
    ASSERT_EQ(moved.exit_code, 0) << moved.err;
    EXPECT_THAT(moved.out, HasSubstr("disk root"));
    ASSERT_NO_FATAL_FAILURE(there.AwaitWrites());
    there.Stop();
    ExpectHas(target->path(), there.Flushed());
  }
  ExpectHas(disk->path(), machine_->Flushed());
  // Nothing of what was there shows through, also where this disk has zeroes.
  const uint64_t behind = kDiskMiB - 1;
  std::string zeroes(kMiB, 'x');
  EXPECT_EQ(pread(Fd(open(target->path().c_str(), O_RDONLY | O_CLOEXEC)).get(), zeroes.data(), zeroes.size(),
                  static_cast<off_t>(behind * kMiB)),
            static_cast<ssize_t>(zeroes.size()));
  EXPECT_TRUE(zeroes == std::string(kMiB, '\0'));
}

}  // namespace
}  // namespace ferrite
