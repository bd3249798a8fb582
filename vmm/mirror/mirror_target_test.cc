#include "vmm/mirror/mirror_target.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "devices/block/image_lock.h"
#include "vmm/mirror/block_driver.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

constexpr uint64_t kBytes = uint64_t{4} << 20;

class MirrorTargetTest : public testing::Test {
 protected:
  MirrorTargetTest() : loop_(*EventLoop::Create("test-loop")) {}

  absl::StatusOr<std::unique_ptr<MirrorTarget>> Open(const std::string& where, bool existing = false,
                                                     int source_fd = -1, uint64_t bytes = kBytes) {
    return MirrorTarget::Open(
        {.where = where, .existing = existing, .bytes = bytes, .depth = 4, .source_fd = source_fd}, *loop_);
  }
  std::string Refusal(const std::string& where, bool existing = false, int source_fd = -1, uint64_t bytes = kBytes) {
    const auto target = Open(where, existing, source_fd, bytes);
    EXPECT_FALSE(target.ok()) << where;
    EXPECT_EQ(target.status().message().find('\n'), std::string::npos);
    return std::string(target.status().message());
  }
  std::string Path(const std::string& name) const { return directory_ / name; }
  Fd MakeFile(const std::string& name, uint64_t bytes, int flags = O_RDWR) const {
    Fd file = *OpenFile(Path(name), flags | O_CREAT | O_EXCL, 0600);
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    return file;
  }
  std::set<std::string> Names() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      names.insert(entry.path().filename());
    }
    return names;
  }
  static struct stat StatOf(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info;
  }
  // Whether somebody else could write to it.
  static bool IsLocked(const std::string& path) {
    const Fd other = *OpenFile(path, O_RDONLY);
    return ImageIsLocked(other.get(), /*for_writing=*/true);
  }

  using NameSet = std::set<std::string>;

  ShortDirectory directory_;
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(MirrorTargetTest, AFileIsMadeSparseLockedAndMarked) {
  auto target = Open(Path("disk"));
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->where(), Path("disk"));
  EXPECT_EQ((*target)->Describe(), "file, made here, 4 MiB");
  EXPECT_TRUE((*target)->is_zero());
  EXPECT_EQ(Names(), (NameSet{"disk", "disk.incomplete"}));
  const struct stat info = StatOf(Path("disk"));
  EXPECT_EQ(info.st_size, static_cast<off_t>(kBytes));
  EXPECT_EQ(info.st_blocks, 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_TRUE(IsLocked(Path("disk")));
  EXPECT_EQ((*target)->blocks().bytes(), kBytes);
  EXPECT_EQ((*target)->blocks().name(), Path("disk"));

  BlockDriver driver(*loop_, (*target)->blocks());
  EXPECT_TRUE(driver.Write(4096, std::string(4096, 'x')).ok());
  EXPECT_TRUE(driver.Flush().ok());
  EXPECT_TRUE((*target)->MarkComplete().ok());
  EXPECT_EQ(Names(), NameSet{"disk"});
  EXPECT_TRUE((*target)->MarkComplete().ok()) << "once more";
  target->reset();
  EXPECT_FALSE(IsLocked(Path("disk")));
  EXPECT_EQ(Names(), NameSet{"disk"});
}

TEST_F(MirrorTargetTest, WhatNobodyEndedStaysMarked) {
  Open(Path("disk"))->reset();
  EXPECT_EQ(Names(), (NameSet{"disk", "disk.incomplete"}));
}

TEST_F(MirrorTargetTest, WhatWasMadeIsRemovedWithItsMark) {
  auto target = Open(Path("disk"));
  ASSERT_TRUE(target.ok());
  EXPECT_TRUE((*target)->Remove().ok());
  EXPECT_EQ(Names(), NameSet{});
  EXPECT_TRUE((*target)->Remove().ok()) << "once more";
  EXPECT_TRUE(Open(Path("disk")).ok());
}

TEST_F(MirrorTargetTest, WhatOthersPutInItsPlaceIsNotRemoved) {
  auto target = Open(Path("disk"));
  ASSERT_TRUE(target.ok());
  for (const char* name : {"disk", "disk.incomplete"}) {
    ASSERT_EQ(rename(Path(name).c_str(), Path(absl::StrCat(name, ".ours")).c_str()), 0);
    MakeFile(name, 17);
  }
  EXPECT_TRUE((*target)->MarkComplete().ok());
  EXPECT_EQ(Names().size(), 4u);
  EXPECT_TRUE((*target)->Remove().ok());
  EXPECT_EQ(Names().size(), 4u);
  EXPECT_EQ(StatOf(Path("disk")).st_size, 17);
}

TEST_F(MirrorTargetTest, ADirectoryThatIsMovedAwayChangesNothing) {
  ASSERT_EQ(mkdir(Path("a").c_str(), 0700), 0);
  auto target = Open(Path("a/disk"));
  ASSERT_TRUE(target.ok());
  ASSERT_EQ(rename(Path("a").c_str(), Path("b").c_str()), 0);
  ASSERT_EQ(mkdir(Path("a").c_str(), 0700), 0);
  MakeFile("a/disk", 17);
  MakeFile("a/disk.incomplete", 17);
  EXPECT_TRUE((*target)->MarkComplete().ok());
  EXPECT_FALSE(std::filesystem::exists(Path("b/disk.incomplete")));
  EXPECT_TRUE((*target)->Remove().ok());
  EXPECT_FALSE(std::filesystem::exists(Path("b/disk")));
  EXPECT_TRUE(std::filesystem::exists(Path("a/disk")));
  EXPECT_TRUE(std::filesystem::exists(Path("a/disk.incomplete")));
}

TEST_F(MirrorTargetTest, WhatIsThereIsNotMadeAnew) {
  MakeFile("disk", 17);
  EXPECT_TRUE(absl::StrContains(Refusal(Path("disk")), "is there already"));
  ASSERT_EQ(symlink("nothing", Path("link").c_str()), 0);
  EXPECT_TRUE(absl::StrContains(Refusal(Path("link")), "is there already"));
  EXPECT_EQ(Names(), (NameSet{"disk", "link"}));
  EXPECT_EQ(StatOf(Path("disk")).st_size, 17);
  // The mark of one that did not end.
  MakeFile("other.incomplete", 0);
  EXPECT_TRUE(
      absl::StrContains(Refusal(Path("other")), "other.incomplete is there: a mirror to this target is running"));
  EXPECT_EQ(Names(), (NameSet{"disk", "link", "other.incomplete"}));
}

TEST_F(MirrorTargetTest, PlacesWhereNoFileCanBe) {
  EXPECT_TRUE(absl::StrContains(Refusal(Path("missing/disk")), "No such file or directory"));
  EXPECT_TRUE(absl::StrContains(Refusal(directory_.path() + "/"), "is a directory"));
  EXPECT_TRUE(absl::StrContains(Refusal("."), "is a directory"));
  EXPECT_TRUE(absl::StrContains(Refusal(Path("..")), "is a directory"));
  EXPECT_TRUE(absl::StrContains(Refusal(""), "no name"));
  EXPECT_TRUE(absl::StrContains(Refusal(Path("disk"), false, -1, 1000), "cannot be mirrored"));
  EXPECT_TRUE(absl::StrContains(Refusal(Path("disk"), false, -1, 0), "cannot be mirrored"));
  EXPECT_FALSE(Open(Path(std::string(250, 'x'))).ok()) << "no room for .incomplete";
  EXPECT_FALSE(Open(Path("disk"), false, -1, uint64_t{1} << 62).ok()) << "larger than any file";
  EXPECT_EQ(Names(), NameSet{});
}

TEST_F(MirrorTargetTest, AnExistingFileIsUsedAndKeepsItsMark) {
  const Fd file = MakeFile("disk", kBytes);
  const std::string before(4096, 'b');
  ASSERT_EQ(pwrite(file.get(), before.data(), before.size(), 0), 4096);
  auto target = Open(Path("disk"), true);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->Describe(), "file, 4 MiB");
  EXPECT_FALSE((*target)->is_zero());
  EXPECT_TRUE(IsLocked(Path("disk")));
  EXPECT_EQ(Names(), (NameSet{"disk", "disk.incomplete"}));
  BlockDriver driver(*loop_, (*target)->blocks());
  EXPECT_EQ(driver.Read(0, 4096), before);
  EXPECT_TRUE((*target)->Remove().ok());
  EXPECT_EQ(Names(), (NameSet{"disk", "disk.incomplete"}));
  target->reset();

  // The mark that is left is as good as a new one.
  target = Open(Path("disk"), true);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE((*target)->MarkComplete().ok());
  EXPECT_EQ(Names(), NameSet{"disk"});
}

TEST_F(MirrorTargetTest, AnExistingFileThatIsEmptyGetsTheDisksSize) {
  MakeFile("disk", 0);
  auto target = Open(Path("disk"), true);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE((*target)->is_zero());
  EXPECT_EQ((*target)->blocks().bytes(), kBytes);
  EXPECT_EQ(StatOf(Path("disk")).st_size, static_cast<off_t>(kBytes));
}

TEST_F(MirrorTargetTest, AnExistingFileThatIsOneHoleIsZero) {
  MakeFile("disk", kBytes);
  auto target = Open(Path("disk"), true);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE((*target)->is_zero());
  EXPECT_EQ((*target)->blocks().bytes(), kBytes);
}

// Somebody's file, whose first part would be written over.
TEST_F(MirrorTargetTest, AnExistingFileThatIsLargerIsAnotherThing) {
  MakeFile("disk", 2 * kBytes);
  ASSERT_EQ(symlink("disk", Path("link").c_str()), 0);
  for (const char* name : {"disk", "link"}) {
    EXPECT_EQ(Refusal(Path(name), true),
              absl::StrCat(Path(name),
                           " has 8388608 bytes, and the disk has 4194304; a file that is written over is "
                           "empty, or of the disk's size"));
  }
  EXPECT_EQ(Names(), (NameSet{"disk", "link"})) << "no mark";
  EXPECT_FALSE(IsLocked(Path("disk")));
}

TEST_F(MirrorTargetTest, AnExistingFileThatNothingWasWrittenToIsAsItWas) {
  MakeFile("disk", kBytes);
  MakeFile("empty", 0);
  MakeFile("left", 0);
  MakeFile("left.incomplete", 0);
  for (const char* name : {"disk", "empty", "left"}) {
    auto target = Open(Path(name), true);
    ASSERT_TRUE(target.ok()) << target.status();
    EXPECT_TRUE((*target)->RemoveUntouched().ok());
  }
  EXPECT_EQ(Names(), (NameSet{"disk", "empty", "left", "left.incomplete"}));
  EXPECT_EQ(StatOf(Path("disk")).st_size, static_cast<off_t>(kBytes));
  EXPECT_EQ(StatOf(Path("empty")).st_size, 0);
  EXPECT_EQ(StatOf(Path("left")).st_size, 0);
  auto target = Open(Path("made"));
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE((*target)->RemoveUntouched().ok());
  EXPECT_FALSE(std::filesystem::exists(Path("made")));
  EXPECT_FALSE(std::filesystem::exists(Path("made.incomplete")));
}

TEST_F(MirrorTargetTest, AnExistingFileThatCannotBeUsedStaysAsItIs) {
  EXPECT_TRUE(absl::StrContains(Refusal(Path("missing"), true), "No such file or directory"));
  MakeFile("small", kBytes - 512);
  EXPECT_EQ(Refusal(Path("small"), true), absl::StrCat(Path("small"), " has 4193792 bytes, and the disk has 4194304"));
  MakeFile("odd", kBytes + 100);
  EXPECT_EQ(Refusal(Path("odd"), true),
            absl::StrCat(Path("odd"),
                         " has 4194404 bytes, and the disk has 4194304; a file that is written over is "
                         "empty, or of the disk's size"));
  ASSERT_EQ(mkdir(Path("directory").c_str(), 0700), 0);
  EXPECT_TRUE(absl::StrContains(Refusal(Path("directory"), true), "is a directory"));
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  EXPECT_TRUE(absl::StrContains(Refusal(Path("fifo"), true), "is a special file"));
  EXPECT_TRUE(absl::StrContains(Refusal("/dev/null", true), "is a special file"));

  Fd used = MakeFile("used", kBytes);
  ASSERT_TRUE(LockImage(used.get(), "used", true).ok());
  EXPECT_TRUE(absl::StrContains(Refusal(Path("used"), true), "is in use by this monitor itself"));
  EXPECT_EQ(Names(), (NameSet{"directory", "fifo", "odd", "small", "used"})) << "no marks";
  EXPECT_EQ(StatOf(Path("small")).st_size, static_cast<off_t>(kBytes - 512));
}

TEST_F(MirrorTargetTest, TheSourceItselfIsRefused) {
  const Fd source = MakeFile("source", kBytes);
  ASSERT_EQ(link(Path("source").c_str(), Path("hard").c_str()), 0);
  ASSERT_EQ(symlink("source", Path("soft").c_str()), 0);
  for (const char* name : {"source", "hard", "soft"}) {
    EXPECT_TRUE(absl::StrContains(Refusal(Path(name), true, source.get()), "is the disk itself")) << name;
  }
  MakeFile("other", kBytes);
  EXPECT_TRUE(Open(Path("other"), true, source.get()).ok());
}

TEST_F(MirrorTargetTest, OwnLinksAreFollowedToAnExistingFile) {
  MakeFile("disk", kBytes);
  ASSERT_EQ(symlink("disk", Path("link").c_str()), 0);
  auto target = Open(Path("link"), true);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE(IsLocked(Path("disk")));
  EXPECT_EQ(Names(), (NameSet{"disk", "disk.incomplete", "link"})) << "beside the file itself";
  EXPECT_TRUE((*target)->MarkComplete().ok());
  EXPECT_EQ(Names(), (NameSet{"disk", "link"}));

  // In another directory.
  ASSERT_EQ(mkdir(Path("far").c_str(), 0700), 0);
  MakeFile("far/file", kBytes);
  ASSERT_EQ(symlink("far/file", Path("near").c_str()), 0);
  ASSERT_TRUE(Open(Path("near"), true).ok());
  EXPECT_EQ(Names(), (NameSet{"disk", "far", "link", "near"}));
  EXPECT_TRUE(std::filesystem::exists(Path("far/file.incomplete")));
}

TEST_F(MirrorTargetTest, TheImageGoesOnWithTheSameOpenAndLock) {
  auto target = Open(Path("disk"));
  ASSERT_TRUE(target.ok());
  ASSERT_TRUE((*target)->MarkComplete().ok());
  auto image = (*target)->TakeImage();
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->path(), Path("disk"));
  EXPECT_EQ((*image)->sectors(), kBytes / kSectorBytes);
  EXPECT_TRUE((*image)->held());
  EXPECT_FALSE((*target)->TakeImage().ok()) << "once";
  EXPECT_FALSE((*target)->Remove().ok()) << "a machine's";
  target->reset();
  EXPECT_TRUE(IsLocked(Path("disk")));
  EXPECT_EQ(pwrite((*image)->fd(), "x", 1, 0), 1);
  EXPECT_TRUE((*image)->Release().ok());
  EXPECT_FALSE(IsLocked(Path("disk")));
  EXPECT_TRUE((*image)->Acquire().ok());
  EXPECT_TRUE(IsLocked(Path("disk")));
  EXPECT_EQ(Names(), NameSet{"disk"});
}

TEST_F(MirrorTargetTest, AnNbdExport) {
  auto server = NbdServer::Nbdkit(directory_, {"memory", "8M"});
  ASSERT_TRUE(server.ok());
  auto target = Open(server->where());
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->Describe(), absl::StrCat("NBD export \"\" of ", server->where(), ", 8 MiB, fast zero, trim"));
  EXPECT_FALSE((*target)->is_zero());
  EXPECT_EQ((*target)->blocks().bytes(), 2 * kBytes);
  BlockDriver driver(*loop_, (*target)->blocks());
  EXPECT_TRUE(driver.Write(4096, std::string(4096, 'x')).ok());
  EXPECT_TRUE(driver.Read(4096, 4096) == std::string(4096, 'x'));
  EXPECT_TRUE(absl::IsFailedPrecondition((*target)->TakeImage().status()));
  EXPECT_TRUE((*target)->WriteOut().ok());
  EXPECT_TRUE((*target)->MarkComplete().ok());
  (*target)->CutOff();
  EXPECT_FALSE(driver.Flush().ok());
  const absl::Status lost = (*target)->WriteOut();
  EXPECT_TRUE(absl::IsUnavailable(lost)) << lost;
  EXPECT_EQ(lost.message(),
            absl::StrCat("flush ", server->where(), ": the connection to the NBD server is lost: it was given up"));
  EXPECT_TRUE((*target)->Remove().ok());
}

TEST_F(MirrorTargetTest, NbdExportsThatCannotBeUsed) {
  const struct {
    std::vector<std::string> arguments;
    std::string words;
  } kCases[] = {
      {{"-r", "memory", "8M"}, "the export is read-only"},
      {{"memory", "2M"}, "the export has 2097152 bytes, and the disk has 4194304"},
      {{"--filter=blocksize-policy", "memory", "4194816", "blocksize-minimum=4K", "blocksize-preferred=4K"},
       "the export has 4194816 bytes, not a multiple of the export's block size, 4096"},
      {{"memory", "4194305"}, "the export has 4194305 bytes, not a multiple of the export's block size, 512"},
  };
  for (const auto& one : kCases) {
    auto server = NbdServer::Nbdkit(directory_, one.arguments);
    ASSERT_TRUE(server.ok());
    EXPECT_EQ(Refusal(server->where()), absl::StrCat(server->where(), ": ", one.words));
  }
  auto server = NbdServer::Nbdkit(
      directory_, {"--filter=blocksize-policy", "memory", "8M", "blocksize-minimum=4K", "blocksize-preferred=4K"});
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(
      Refusal(server->where(), false, -1, kBytes + 512),
      absl::StrCat(server->where(), ": the disk has 4194816 bytes, not a multiple of the export's block size, 4096"));
  EXPECT_TRUE(absl::StrContains(Refusal("nbd:foo"), "./nbd:foo"));
}

}  // namespace
}  // namespace ferrite
