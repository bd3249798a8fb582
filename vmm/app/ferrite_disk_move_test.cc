// Machines that move with their disks, as people move them: the guest keeps a journal on its disk
// (tests/guest/journal.cc), from which an image tells by itself whether it is that of one instant.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/journal_image.h"
#include "tests/fakes/journal_machine.h"
#include "tests/fakes/short_directory.h"
#include "tests/fakes/test_place.h"
#include "vmm/app/exit_codes.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kImageBytes = uint64_t{64} << 20;

class FerriteDiskMoveTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(Boot("")); }
  void Boot(absl::string_view options) {
    MakeFile(Image(0), kImageBytes);
    here_->Run(Image(0), options);
    ASSERT_NO_FATAL_FAILURE(here_->AwaitFlushed(1));
  }
  static void MakeFile(const std::string& path, uint64_t bytes) {
    ASSERT_EQ(close(creat(path.c_str(), 0600)), 0);
    fs::resize_file(path, bytes);
  }
  // Where the disk is after so many moves.
  std::string Image(int moves) const { return directory_ / absl::StrCat("root", moves, ".img"); }
  Finished Move(absl::string_view options) {
    return here_->Ferrite(absl::StrCat("move web1 ", there_->address(), " ", options));
  }
  // The guest is there now, and its disk is at `there`; the one here is as it was at the switchover.
  void ExpectMoved(const Finished& moved, const std::string& here, const std::string& there) {
    ASSERT_EQ(moved.exit_code, 0) << moved.err;
    const uint64_t flushed = here_->Flushed();
    EXPECT_EQ(here_->monitor().Wait().exit_code, 0);
    std::swap(here_, there_);
    ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
    EXPECT_FALSE(fs::exists(there + ".incomplete"));
    const JournalImage left(here, JournalMachine::Slots());
    EXPECT_TRUE(left.IsOfOneInstant()) << left.Words();
    EXPECT_EQ(left.MissingUpTo(flushed), 0u) << left.Words() << ", and " << flushed << " was told to be flushed";
  }
  void ExpectStayed(const Finished& moved, absl::string_view why) {
    EXPECT_EQ(moved.exit_code, kExitFailure);
    EXPECT_THAT(moved.err, HasSubstr(std::string(why)));
    EXPECT_THAT(moved.err, HasSubstr("web1 runs on here"));
    ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
  }

  ShortDirectory directory_;
  std::unique_ptr<JournalMachine> here_ = std::make_unique<JournalMachine>(directory_.path(), "a");
  std::unique_ptr<JournalMachine> there_ = std::make_unique<JournalMachine>(directory_.path(), "b");
};

TEST_F(FerriteDiskMoveTest, DiskGoesToAndFroWithItsGuest) {
  const char* const options[] = {"--mode precopy", "--mode postcopy --disks mirror", "--mode auto --channels auto",
                                 "--mode postcopy --channels 3", "--mode precopy --downtime-limit 1ms"};
  const int moves = ForPlace(10, 4);
  for (int move = 1; move <= moves; ++move) {
    SCOPED_TRACE(move);
    there_->Receive(absl::StrCat("--disk-copy root=", Image(move)));
    const Finished moved = Move(options[move % std::size(options)]);
    ASSERT_NO_FATAL_FAILURE(ExpectMoved(moved, Image(move - 1), Image(move)));
    EXPECT_THAT(moved.out, HasSubstr("disk root      64 MiB: "));
    struct stat info = {};
    ASSERT_EQ(stat(Image(move).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    EXPECT_LE(static_cast<uint64_t>(info.st_blocks) * 512, 2 * JournalMachine::kJournalBytes) << "it is sparse";
  }
  ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
  const uint64_t flushed = here_->Flushed();
  here_->Stop();
  const JournalImage last(Image(moves), JournalMachine::Slots());
  EXPECT_TRUE(last.IsOfOneInstant()) << last.Words();
  EXPECT_EQ(last.MissingUpTo(flushed), 0u) << last.Words();
}

TEST_F(FerriteDiskMoveTest, DirectoryOrWhatIsThereTakesIt) {
  there_->Receive(absl::StrCat("--disk-copy-dir ", directory_.path()));
  const std::string made = directory_ / "web1-root.img";
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(Move("--json"), Image(0), made));
  // Back, over what was left.
  there_->Receive(absl::StrCat("--disk-copy root=", Image(0), ",existing"));
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(Move(""), made, Image(0)));
  here_->Stop();
  const JournalImage last(Image(0), JournalMachine::Slots());
  EXPECT_TRUE(last.IsOfOneInstant()) << last.Words();
}

TEST_F(FerriteDiskMoveTest, WhatCannotBeCopiedStaysAndIsRefusedInOneLine) {
  there_->Receive(absl::StrCat("--disk root=", Image(0)));
  ExpectStayed(
      Move("--disks mirror"),
      "disk root is to be copied, and the destination has named no place for that; `ferrite receive --disk-copy "
      "ID=PATH` names it there");
  there_->Receive(absl::StrCat("--disk-copy root=", Image(1)));
  ExpectStayed(Move("--disks shared"), "disk root: its image cannot be used here");
  EXPECT_FALSE(fs::exists(Image(1)));
  there_->Receive(absl::StrCat("--max-disk 1M --disk-copy root=", Image(1)));
  ExpectStayed(Move(""), "disk root: its image cannot be used here");
  EXPECT_FALSE(fs::exists(Image(1)));
  // The source has it.
  there_->Receive(absl::StrCat("--disk-copy root=", Image(0), ",existing"));
  ExpectStayed(Move(""), "disk root: its image cannot be used here");
  EXPECT_FALSE(fs::exists(Image(0) + ".incomplete"));
  // Both sides reach it, and nothing is copied.
  there_->Receive(absl::StrCat("--disk root=", Image(0)));
  const Finished moved = Move("");
  ASSERT_EQ(moved.exit_code, 0) << moved.err;
  EXPECT_THAT(moved.out, HasSubstr("disk root      64 MiB: not copied, both sides reach it\n"));
  EXPECT_EQ(here_->monitor().Wait().exit_code, 0);
  std::swap(here_, there_);
  ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
}

TEST_F(FerriteDiskMoveTest, CancelAndADestinationThatIsKilledLeaveTheDiskHere) {
  for (const bool kill : {false, true}) {
    SCOPED_TRACE(kill);
    there_->Receive(absl::StrCat("--disk-copy root=", Image(1)));
    const auto move =
        here_->Start(absl::StrCat("move web1 ", there_->address(), " --json --recover-for 0 --max-bandwidth 1M"));
    bool copies = false;
    while (!copies && !move->HasEnded()) {
      const auto status = nlohmann::json::parse(here_->Ferrite("move web1 --status --json").out, nullptr, false);
      // That of this move, not of the one before.
      copies = status.is_object() && status["over"] == false && !status["parts"].empty() &&
               status["parts"][0]["data_bytes"] > 0;
    }
    EXPECT_TRUE(copies);
    EXPECT_TRUE(fs::exists(Image(1) + ".incomplete"));
    if (kill) {
      there_->monitor().Signal(SIGKILL);
    } else {
      EXPECT_EQ(here_->Ferrite("move web1 --cancel").exit_code, 0);
    }
    EXPECT_EQ(move->Wait().exit_code, kExitFailure);
    (void)there_->monitor().Wait();
    ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
    EXPECT_EQ(fs::exists(Image(1)), kill) << "R3";
    EXPECT_EQ(fs::exists(Image(1) + ".incomplete"), kill) << "R3";
  }
  here_->Stop();
  const JournalImage here(Image(0), JournalMachine::Slots());
  EXPECT_TRUE(here.IsOfOneInstant()) << here.Words();
}

// R3
TEST_F(FerriteDiskMoveTest, FullDestinationEndsTheMoveAtOnceAndASecondOneWorks) {
  const std::string full = directory_ / "full";
  ASSERT_TRUE(fs::create_directory(full));
  if (mount("none", full.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "A FULL DESTINATION IS NOT TESTED: mounting a small tmpfs needs root: " << std::strerror(errno);
  }
  const absl::Cleanup unmount = [&] { EXPECT_EQ(umount2(full.c_str(), MNT_DETACH), 0); };
  // More than there is room for.
  ASSERT_NO_FATAL_FAILURE(here_->AwaitFlushed(64));
  const std::string image = full + "/root.img";
  there_->Receive(absl::StrCat("--disk-copy root=", image));
  const Finished moved = Move("--recover-for 60s");
  ExpectStayed(moved, "disk root: write ");
  EXPECT_THAT(moved.err, HasSubstr("of its image at the destination: No space left on device"));
  EXPECT_EQ(there_->monitor().Wait().exit_code, kExitFailure);
  EXPECT_FALSE(fs::exists(image));
  EXPECT_FALSE(fs::exists(image + ".incomplete"));
  there_->Receive(absl::StrCat("--disk-copy root=", Image(1)));
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(Move(""), Image(0), Image(1)));
}

class FerriteTwoDisksMoveTest : public FerriteDiskMoveTest {
 protected:
  void SetUp() override {
    MakeFile(data_, kDataBytes);
    ASSERT_NO_FATAL_FAILURE(Boot("--disk id=data,path=" + data_));
  }

  static constexpr uint64_t kDataBytes = uint64_t{1} << 20;
  const std::string data_ = directory_ / "data.img";
};

// A disk that went on with its copy is where that is, whoever asks; and of two disks one is copied, and one is not.
TEST_F(FerriteTwoDisksMoveTest, MovesKnowWhereEachDiskIs) {
  const Finished mirrored = here_->Ferrite(absl::StrCat("mirror web1 root ", Image(1), " --auto-complete"));
  ASSERT_EQ(mirrored.exit_code, 0) << mirrored.err;
  ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());
  const JournalImage before(Image(0), JournalMachine::Slots());
  EXPECT_TRUE(before.IsOfOneInstant()) << before.Words();

  // The destination opens what it is told.
  there_->Receive(absl::StrCat("--disk-from ", directory_.path()));
  const Finished shared = Move("");
  ASSERT_EQ(shared.exit_code, 0) << shared.err;
  EXPECT_THAT(shared.out, HasSubstr("disk root      64 MiB: not copied, both sides reach it\n"));
  EXPECT_THAT(shared.out, HasSubstr("disk data      1 MiB: not copied, both sides reach it\n"));
  EXPECT_EQ(here_->monitor().Wait().exit_code, 0);
  std::swap(here_, there_);
  ASSERT_NO_FATAL_FAILURE(here_->AwaitWrites());

  there_->Receive(absl::StrCat("--disk-copy root=", Image(2)));
  ExpectStayed(Move(""), "disk data");
  EXPECT_FALSE(fs::exists(Image(2)));
  there_->Receive(absl::StrCat("--disk-copy root=", Image(2), " --disk-from ", directory_.path()));
  const Finished copied = Move("--disks auto");
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(copied, Image(1), Image(2)));
  EXPECT_THAT(copied.out, HasSubstr("disk root      64 MiB: "));
  EXPECT_THAT(copied.out, Not(HasSubstr("disk root      64 MiB: not copied")));
  EXPECT_THAT(copied.out, HasSubstr("disk data      1 MiB: not copied, both sides reach it\n"));
  EXPECT_FALSE(fs::exists(data_ + ".incomplete"));
  const uint64_t flushed = here_->Flushed();
  here_->Stop();
  const JournalImage last(Image(2), JournalMachine::Slots());
  EXPECT_TRUE(last.IsOfOneInstant()) << last.Words();
  EXPECT_EQ(last.MissingUpTo(flushed), 0u) << last.Words();
  EXPECT_EQ(JournalImage(Image(0), JournalMachine::Slots()).last(), before.last()) << "it is left as it was";
}

}  // namespace
}  // namespace ferrite
