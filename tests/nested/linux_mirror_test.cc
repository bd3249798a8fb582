// The ext4 disk of a real Linux guest is mirrored while the guest writes numbered blocks and files to it and syncs them
// (numbered.cc): from image to image in both copy modes, as a copy of an instant, and with the machine when it moves to
// another monitor. What each image has is looked at from outside, as after a loss of power, and by the guest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/monotonic.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/journal_image.h"
#include "tests/nested/linux_guest.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kDiskBytes = uint64_t{24} << 20;
// As numbered.cc has them.
constexpr uint64_t kSlots = 1024;
constexpr uint64_t kFiles = 8;

// What the guest said to be on its disk.
struct Synced {
  uint64_t flushed = 0;
  uint64_t file = 0;
};

class LinuxMirrorTest : public ::testing::Test {
 protected:
  LinuxMirrorTest() { fs::create_directories(TestRunDir()); }

  static std::string Path(const std::string& name) { return absl::StrCat(getenv("TEST_TMPDIR"), "/", name, ".img"); }

  void Start() {
    std::ofstream(disk_).close();
    ASSERT_EQ(truncate(disk_.c_str(), kDiskBytes), 0);
    fs::permissions(disk_, fs::perms::owner_read | fs::perms::owner_write);
    ASSERT_NO_FATAL_FAILURE(RunHere({"tests/nested/mke2fs", "-q", "-t", "ext4", "-b", "4096", disk_}));
    LinuxGuest::Options options;
    options.name = "mirrored";
    options.memory = "128M";
    options.more_arguments = {"--disk", absl::StrCat("id=data,path=", disk_)};
    auto guest = LinuxGuest::Boot(options);
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = std::move(*guest);
    Run("mount /dev/vda /mnt");
    StartWork();
  }
  void StartWork() {
    Run("numbered run /mnt >/tmp/numbered.out 2>&1 & true");
    Run("while ! grep -q works /tmp/numbered.out; do usleep 10000; done");
  }
  std::string Run(absl::string_view line) {
    auto answer = guest_->Run(line);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : "";
  }
  // Of the guest's own checks: nothing was wrong so far.
  static Synced ReadStatus(const std::string& line) {
    Synced synced;
    for (absl::string_view word : absl::StrSplit(absl::StripTrailingAsciiWhitespace(line), ' ')) {
      (void)(absl::ConsumePrefix(&word, "flushed=") && absl::SimpleAtoi(word, &synced.flushed));
      (void)(absl::ConsumePrefix(&word, "file=") && absl::SimpleAtoi(word, &synced.file));
    }
    EXPECT_THAT(line, HasSubstr("errors=0"));
    return synced;
  }
  Synced Status() { return ReadStatus(Run("numbered status; true")); }
  // The guest gets on with its blocks and its files.
  void WorksOn() {
    const Synced first = Status();
    const MonotonicTime deadline = MonotonicTime::Now() + kCommandDeadline;
    for (Synced now = first; now.flushed == first.flushed || now.file == first.file; now = Status()) {
      ASSERT_LT(MonotonicTime::Now(), deadline) << "it stands still";
    }
  }

  static void RunHere(const std::vector<std::string>& command) {
    const auto done = RunProgram(command, kCommandDeadline);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_EQ(done->code, 0) << command[0] << ": " << done->output;
  }
  void Mirror(const std::vector<std::string>& words) const {
    std::vector<std::string> all = {"data"};
    all.insert(all.end(), words.begin(), words.end());
    const auto done = guest_->Command("mirror", all);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_EQ(done->code, 0) << done->output;
  }
  void MirrorTo(const std::string& target, const std::string& mode) {
    ASSERT_NO_FATAL_FAILURE(Mirror({target, "--copy-mode", mode}));
    ASSERT_NO_FATAL_FAILURE(WorksOn());
  }

  // As after a loss of power at that instant: the file system's journal is replayed, in a copy of the image. Then there
  // is nothing to repair, and all that was synced by then is there.
  static void ExpectHas(const std::string& image, const Synced& synced) {
    SCOPED_TRACE(image);
    EXPECT_FALSE(fs::exists(image + ".incomplete"));
    const std::string copy = Path("replayed");
    fs::copy_file(image, copy, fs::copy_options::overwrite_existing);
    const auto replayed = RunProgram({"tests/nested/e2fsck", "-y", "-E", "journal_only", copy}, kCommandDeadline);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    ASSERT_LE(replayed->code, 1) << replayed->output;  // 1: it did something
    ASSERT_NO_FATAL_FAILURE(ExpectClean(copy));
    ExpectContent(copy, synced);
  }
  static void ExpectClean(const std::string& image) { RunHere({"tests/nested/e2fsck", "-fn", image}); }
  static void ExpectContent(const std::string& image, const Synced& synced) {
    const std::string content = absl::StrCat(getenv("TEST_TMPDIR"), "/content");
    fs::remove_all(content);
    fs::create_directory(content);
    ASSERT_NO_FATAL_FAILURE(RunHere({"tests/nested/debugfs", "-R", absl::StrCat("rdump / ", content), image}));
    const JournalImage journal(content + "/journal", kSlots);
    EXPECT_TRUE(journal.IsOfOneInstant()) << journal.Words();
    EXPECT_EQ(journal.MissingUpTo(synced.flushed), 0u) << "not all up to " << synced.flushed << ": " << journal.Words();
    uint64_t last = 0;
    for (const auto& entry : fs::directory_iterator(content)) {
      const std::string name = entry.path().filename().string();
      uint64_t number = 0;
      absl::string_view rest = name;
      if (absl::ConsumePrefix(&rest, "file") && absl::SimpleAtoi(rest, &number)) {
        last = std::max(last, number);
      }
    }
    EXPECT_GE(last, synced.file);
    // The last one may have been in work.
    for (uint64_t number = last > kFiles ? last - kFiles + 1 : 1; number <= std::max(synced.file, last - 1); ++number) {
      EXPECT_TRUE(IsWholeFile(absl::StrCat(content, "/file", number), number)) << "file" << number << " of " << last;
    }
  }
  static bool IsWholeFile(const std::string& path, uint64_t number) {
    if (!fs::exists(path)) {
      return false;
    }
    const std::string content = FileContent(path);
    std::string whole;
    for (uint64_t i = 0; i <= number % 4; ++i) {
      std::vector<uint64_t> words(guest::kWordsInPage);
      guest::FillJournalBlock(words.data(), number, i);
      whole.append(reinterpret_cast<const char*>(words.data()), guest::kJournalBlockBytes);
    }
    return content == whole;
  }

  // The machine's disk is `target` now: the one before has all that the guest had synced by `before`, and the guest
  // gets on.
  void GoesOnWith(const std::string& target, const Synced& before) {
    ASSERT_NO_FATAL_FAILURE(ExpectHas(disk_, before));
    old_[disk_] = FileContent(disk_);
    disk_ = target;
    EXPECT_FALSE(fs::exists(target + ".incomplete"));
    ASSERT_NO_FATAL_FAILURE(WorksOn());
  }

  std::unique_ptr<LinuxGuest> guest_;
  std::string disk_ = Path("root");
  std::map<std::string, std::string> old_;  // what images that were left had then
};

TEST_F(LinuxMirrorTest, GuestGoesFromImageToImageAndMovesWithItsDisk) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const std::string copy = Path("copy");
  ASSERT_NO_FATAL_FAILURE(MirrorTo(copy, "background"));
  const Synced copied = Status();
  ASSERT_NO_FATAL_FAILURE(Mirror({"--cancel", "--keep-copy"}));
  ASSERT_NO_FATAL_FAILURE(ExpectHas(copy, copied));
  fs::remove(copy);
  for (const std::string mode : {"background", "write-blocking"}) {
    SCOPED_TRACE(mode);
    // The machine's new disk; the old one stays as it was.
    const std::string target = Path(absl::StrCat("disk-", mode));
    ASSERT_NO_FATAL_FAILURE(MirrorTo(target, mode));
    const Synced before = Status();
    ASSERT_NO_FATAL_FAILURE(Mirror({"--complete"}));
    ASSERT_NO_FATAL_FAILURE(GoesOnWith(target, before));
  }
  // A disk moves with its machine, there and back: what is left behind is as it was at the switchover.
  for (const std::string mode : {"precopy", "auto"}) {
    SCOPED_TRACE(mode);
    const std::string target = Path(absl::StrCat("moved-", mode));
    const Synced before = Status();
    const auto moved =
        guest_->Move({"--mode", mode, "--downtime-limit", "2s"}, {"--disk-copy", absl::StrCat("data=", target)});
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_THAT(*moved, HasSubstr("disk data"));
    ASSERT_NO_FATAL_FAILURE(GoesOnWith(target, before));
  }

  // The guest reads all of it, past its cache, and goes on.
  ReadStatus(Run("numbered stop; true"));
  Run("umount /mnt && mount /dev/vda /mnt");
  StartWork();
  ASSERT_NO_FATAL_FAILURE(WorksOn());
  const Synced last = ReadStatus(Run("numbered stop; true"));
  Run("umount /mnt");
  EXPECT_EQ(Run("dmesg | grep -E 'EXT4-fs (error|warning)|I/O error|critical target error' || true"), "");
  ASSERT_TRUE(guest_->Send("poweroff -f").ok());
  const auto code = guest_->WaitForExit();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 0) << guest_->monitor().output();
  ASSERT_NO_FATAL_FAILURE(ExpectClean(disk_));
  ExpectContent(disk_, last);
  for (const auto& [path, content] : old_) {
    EXPECT_TRUE(FileContent(path) == content) << path << " was written to";
  }
}

}  // namespace
}  // namespace ferrite
