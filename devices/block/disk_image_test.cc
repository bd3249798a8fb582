#include "devices/block/disk_image.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/pinned_file.h"
#include "devices/block/image_lock.h"

namespace ferrite {
namespace {

class DiskImageTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-disk-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    path_ = MakeFile("root.img", 1 << 20);
  }
  void TearDown() override {
    for (const std::string& file : files_) {
      unlink(file.c_str());
    }
    rmdir(directory_.c_str());
  }

  std::string MakeFile(const std::string& name, off_t bytes) {
    const std::string path = absl::StrCat(directory_, "/", name);
    const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), bytes), 0);
    files_.push_back(path);
    return path;
  }

  static std::string ErrorOf(const std::string& path, bool read_only) {
    auto disk = DiskImage::Create(path, read_only);
    return disk.ok() ? "" : std::string(disk.status().message());
  }

  // What Create() says in another process: the error, "" when it could open the image.
  std::string ErrorInChild(bool read_only) {
    int pipe_fds[2];
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      const std::string error = ErrorOf(path_, read_only);
      const bool written = write(pipe_fds[1], error.data(), error.size()) == static_cast<ssize_t>(error.size());
      _exit(written ? 0 : 1);
    }
    close(pipe_fds[1]);
    std::string error;
    char buffer[512];
    for (ssize_t n; (n = read(pipe_fds[0], buffer, sizeof(buffer))) > 0;) {
      error.append(buffer, n);
    }
    close(pipe_fds[0]);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    return error;
  }

  std::string directory_;
  std::string path_;
  std::vector<std::string> files_;
};

TEST_F(DiskImageTest, HasTheSizeOfTheFile) {
  auto disk = DiskImage::Create(path_, false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ((*disk)->sectors(), 2048u);
  EXPECT_TRUE((*disk)->held());
  EXPECT_EQ(fcntl((*disk)->fd(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(DiskImageTest, RefusesWhatIsNoImageWithOneLineThatNamesIt) {
  const std::string missing = absl::StrCat(directory_, "/missing.img");
  EXPECT_EQ(ErrorOf(missing, false), absl::StrCat("disk image ", missing, ": No such file or directory"));
  EXPECT_EQ(ErrorOf(directory_, true),
            absl::StrCat("disk image ", directory_, " is a directory; give a raw image file or a block device"));
  EXPECT_TRUE(absl::StrContains(ErrorOf(directory_, false), directory_));
  EXPECT_TRUE(absl::StrContains(ErrorOf("/dev/null", true), "/dev/null is a special file"));
  EXPECT_TRUE(absl::StrContains(ErrorOf(MakeFile("empty", 0), true), "is empty"));
  const std::string odd = MakeFile("odd", 1000);
  EXPECT_EQ(ErrorOf(odd, true),
            absl::StrCat("disk image ", odd,
                         " has 1000 bytes, not a multiple of 512; round it up with: truncate -s %512 ", odd));
  const std::string fifo = absl::StrCat(directory_, "/fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  files_.push_back(fifo);
  EXPECT_TRUE(absl::StrContains(ErrorOf(fifo, true), "is a special file"));
}

TEST_F(DiskImageTest, SaysWhenOnlyReadingIsPermitted) {
  if (geteuid() == 0) {
    // Root may write to every file, but not to one that is being executed.
    auto disk = DiskImage::Create("/proc/self/exe", false);
    ASSERT_FALSE(disk.ok());
    return;
  }
  ASSERT_EQ(chmod(path_.c_str(), 0400), 0);
  EXPECT_TRUE(absl::StrContains(ErrorOf(path_, false), "cannot be opened for writing"));
  EXPECT_EQ(ErrorOf(path_, true), "");
}

TEST_F(DiskImageTest, OneWriterAloneWithinAProcess) {
  auto writer = DiskImage::Create(path_, false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const bool read_only : {false, true}) {
    const std::string error = ErrorOf(path_, read_only);
    EXPECT_TRUE(absl::StartsWith(error, absl::StrCat("disk image ", path_, " is in use by this monitor itself")))
        << error;
  }
  writer->reset();
  EXPECT_EQ(ErrorOf(path_, false), "");
}

TEST_F(DiskImageTest, OneWriterAloneAmongProcesses) {
  auto writer = DiskImage::Create(path_, false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  // A POSIX lock would be lost here: another descriptor of the file is closed.
  { const Fd other(open(path_.c_str(), O_RDWR | O_CLOEXEC)); }
  for (const bool read_only : {false, true}) {
    const std::string error = ErrorInChild(read_only);
    EXPECT_TRUE(absl::StartsWith(error, absl::StrCat("disk image ", path_, " is in use by "))) << error;
  }
  // The children that shared the open by fork are gone; the lock is not.
  EXPECT_TRUE(absl::StrContains(ErrorOf(path_, false), "in use"));
}

TEST_F(DiskImageTest, ReadersShareButNotWithAWriter) {
  auto reader = DiskImage::Create(path_, true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(ErrorOf(path_, true), "");
  EXPECT_EQ(ErrorInChild(true), "");
  EXPECT_TRUE(absl::StrContains(ErrorOf(path_, false), "in use"));
  EXPECT_TRUE(absl::StrContains(ErrorInChild(false), "in use"));
  // The refused writer has not damaged the reader's lock.
  EXPECT_TRUE(absl::StrContains(ErrorOf(path_, false), "in use"));
}

// QEMU's way: a shared lock on byte 100 + p for each permission that it uses, on 200 + p for each that it denies
// others.
TEST_F(DiskImageTest, KeepsAwayFromQemu) {
  const auto lock = [](const Fd& fd, short type, off_t byte) {
    struct flock range = {};
    range.l_type = type;
    range.l_whence = SEEK_SET;
    range.l_start = byte;
    range.l_len = 1;
    return fcntl(fd.get(), F_OFD_SETLK, &range) == 0;
  };
  {
    const Fd qemu_writer(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(lock(qemu_writer, F_RDLCK, 100) && lock(qemu_writer, F_RDLCK, 101) && lock(qemu_writer, F_RDLCK, 201));
    EXPECT_TRUE(absl::StrContains(ErrorOf(path_, false), "in use"));
    EXPECT_TRUE(absl::StrContains(ErrorOf(path_, true), "in use"));
  }
  const Fd qemu_reader(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(lock(qemu_reader, F_RDLCK, 100) && lock(qemu_reader, F_RDLCK, 201));
  EXPECT_TRUE(absl::StrContains(ErrorOf(path_, false), "in use"));
  EXPECT_EQ(ErrorOf(path_, true), "");
}

TEST_F(DiskImageTest, IsHandedOver) {
  auto source = DiskImage::Create(path_, false);
  ASSERT_TRUE(source.ok()) << source.status();
  auto destination = DiskImage::CreateReleased(path_, false);
  ASSERT_TRUE(destination.ok()) << destination.status();
  EXPECT_EQ((*destination)->sectors(), 2048u);
  EXPECT_FALSE((*destination)->held());
  EXPECT_FALSE((*destination)->Acquire().ok());
  EXPECT_FALSE((*destination)->held());

  EXPECT_TRUE((*source)->Release().ok());
  EXPECT_EQ((*source)->fd(), -1);
  EXPECT_TRUE((*source)->Release().ok());
  EXPECT_TRUE((*destination)->Acquire().ok());
  EXPECT_TRUE((*destination)->Acquire().ok());
  EXPECT_FALSE((*source)->Acquire().ok());

  // And back, as after a move that failed.
  EXPECT_TRUE((*destination)->Release().ok());
  EXPECT_TRUE((*source)->Acquire().ok());
}

// Between the look and the use, by whoever may write to the directory: with a link to what he may not open himself, or
// another file of that size.
TEST_F(DiskImageTest, WhatIsPutInItsPlaceIsNotTaken) {
  for (const bool read_only : {false, true}) {
    for (const bool link : {false, true}) {
      SCOPED_TRACE(absl::StrCat(read_only, link));
      const std::string path = MakeFile("image", 1 << 20);
      const std::string moved = absl::StrCat(directory_, "/moved");
      const std::string other = MakeFile("other", 1 << 20);
      auto destination = DiskImage::CreateReleased(path, read_only);
      ASSERT_TRUE(destination.ok()) << destination.status();
      auto source = DiskImage::Create(path, read_only);
      ASSERT_TRUE(source.ok()) << source.status();
      ASSERT_EQ((*source)->Release(), absl::OkStatus());

      ASSERT_EQ(rename(path.c_str(), moved.c_str()), 0);
      ASSERT_EQ(link ? symlink(other.c_str(), path.c_str()) : rename(other.c_str(), path.c_str()), 0);
      const auto taken = [&](DiskImage& disk) {
        EXPECT_EQ(disk.Acquire(), absl::OkStatus());
        EXPECT_EQ(ErrorOf(path, /*read_only=*/false), "") << "what is there now is nobody's";
        EXPECT_TRUE(absl::StrContains(ErrorOf(moved, /*read_only=*/false), "in use"));
        EXPECT_EQ(disk.Release(), absl::OkStatus());
      };
      taken(**destination);
      taken(**source);
      unlink(path.c_str());
      unlink(moved.c_str());
      unlink(other.c_str());
    }
  }
}

TEST_F(DiskImageTest, IsNotTakenBackWithAnotherSize) {
  auto disk = DiskImage::Create(path_, false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  ASSERT_TRUE((*disk)->Release().ok());
  ASSERT_EQ(truncate(path_.c_str(), 512), 0);
  EXPECT_EQ((*disk)->Acquire().message(), absl::StrCat("disk image ", path_, " had 1048576 bytes and has 512 now"));
  EXPECT_FALSE((*disk)->held());
  ASSERT_EQ(truncate(path_.c_str(), 1 << 20), 0);
  EXPECT_TRUE((*disk)->Acquire().ok());
}

// ---- Of who has it open already ----

class HeldImageTest : public DiskImageTest {
 protected:
  static std::shared_ptr<const PinnedFile> Pin(const std::string& path) {
    auto file = PinnedFile::Find(path, PinnedFile::Links::kAll);
    EXPECT_TRUE(file.ok()) << file.status();
    return std::make_shared<PinnedFile>(*std::move(file));
  }
  static absl::Status Refusal(const std::string& path, Fd fd, bool read_only = false) {
    return DiskImage::CreateHeld(Pin(path), std::move(fd), read_only).status();
  }
};

TEST_F(HeldImageTest, IsHeldByTheOpenThatLockedIt) {
  Fd fd(open(path_.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  ASSERT_EQ(LockImage(fd.get(), path_, /*for_writing=*/true).ToString(), "OK");
  const int number = fd.get();
  auto image = DiskImage::CreateHeld(Pin(path_), std::move(fd), /*read_only=*/false);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_TRUE((*image)->held());
  EXPECT_EQ((*image)->fd(), number);
  EXPECT_EQ((*image)->sectors(), 2048u);
  EXPECT_EQ((*image)->path(), path_);
  EXPECT_FALSE((*image)->read_only());
  EXPECT_EQ(fcntl(number, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_FALSE(DiskImage::Create(path_, /*read_only=*/true).ok());

  ASSERT_EQ((*image)->Release().ToString(), "OK");
  EXPECT_TRUE(DiskImage::Create(path_, /*read_only=*/false).ok());
  ASSERT_EQ((*image)->Acquire().ToString(), "OK");
  EXPECT_FALSE(DiskImage::Create(path_, /*read_only=*/false).ok());
  EXPECT_EQ(write((*image)->fd(), "x", 1), 1);
}

TEST_F(HeldImageTest, MayBeReadOnly) {
  Fd fd(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(LockImage(fd.get(), path_, /*for_writing=*/false).ToString(), "OK");
  auto image = DiskImage::CreateHeld(Pin(path_), std::move(fd), /*read_only=*/true);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_TRUE((*image)->read_only());
  EXPECT_TRUE(DiskImage::Create(path_, /*read_only=*/true).ok());
  EXPECT_FALSE(DiskImage::Create(path_, /*read_only=*/false).ok());
}

TEST_F(HeldImageTest, IsRefusedAsAPathIs) {
  const auto open_file = [](const std::string& path) { return Fd(open(path.c_str(), O_RDWR | O_CLOEXEC)); };
  const std::string empty = MakeFile("empty", 0);
  EXPECT_TRUE(absl::StrContains(Refusal(empty, open_file(empty)).message(), "is empty"));
  const std::string odd = MakeFile("odd", 513);
  EXPECT_TRUE(absl::StrContains(Refusal(odd, open_file(odd)).message(), "has 513 bytes"));
  EXPECT_TRUE(absl::StrContains(Refusal("/dev/null", open_file("/dev/null")).message(), "a special file"));
  const std::string other = MakeFile("other", 1 << 20);
  EXPECT_EQ(Refusal(path_, open_file(other)).message(),
            absl::StrCat("disk image ", path_, " is not the file that was opened"));
  EXPECT_EQ(Refusal(path_, Fd(open(path_.c_str(), O_RDONLY | O_CLOEXEC))).message(),
            absl::StrCat("disk image ", path_, " was not opened for reading and writing"));
  EXPECT_EQ(Refusal(path_, Fd(open(path_.c_str(), O_WRONLY | O_CLOEXEC)), /*read_only=*/true).message(),
            absl::StrCat("disk image ", path_, " was not opened for reading"));
  EXPECT_EQ(Refusal(path_, Fd(open(path_.c_str(), O_PATH | O_CLOEXEC)), /*read_only=*/true).message(),
            absl::StrCat("disk image ", path_, " was not opened for reading"));
  const auto holder = DiskImage::Create(path_, /*read_only=*/false);
  ASSERT_TRUE(holder.ok());
  EXPECT_TRUE(absl::StrContains(Refusal(path_, open_file(path_)).message(), "in use by this monitor itself"));
}

}  // namespace
}  // namespace ferrite
