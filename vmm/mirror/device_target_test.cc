// Block devices as targets: loop devices.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"
#include "vmm/mirror/block_driver.h"
#include "vmm/mirror/mirror_target.h"
#include "vmm/mirror/nbd_server.h"
#include "vmm/mirror/same_disk.h"

namespace ferrite {
namespace {

constexpr uint64_t kBytes = uint64_t{4} << 20;

// A loop device over an open file, as losetup(8) makes it; gone with its owner.
class LoopDevice {
 public:
  explicit LoopDevice(const Fd& file, uint32_t block_bytes = 512, uint32_t flags = 0) {
    const Fd control = *OpenFile("/dev/loop-control", O_RDWR);
    for (;;) {
      const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      FERRITE_CHECK(number >= 0);
      path_ = absl::StrCat("/dev/loop", number);
      device_ = *OpenFile(path_, O_RDWR);
      loop_config config = {};
      config.fd = static_cast<uint32_t>(file.get());
      config.block_size = block_bytes;
      config.info.lo_flags = flags;
      if (ioctl(device_.get(), LOOP_CONFIGURE, &config) == 0) {
        return;
      }
      FERRITE_CHECK(errno == EBUSY);  // somebody else has it
    }
  }
  ~LoopDevice() { ioctl(device_.get(), LOOP_CLR_FD); }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;

  const std::string& path() const { return path_; }
  const Fd& fd() const { return device_; }

 private:
  std::string path_;
  Fd device_;
};

class DeviceTargetTest : public testing::Test {
 protected:
  DeviceTargetTest() : loop_(*EventLoop::Create("test-loop")) {}
  void SetUp() override {
    if (const auto control = OpenFile("/dev/loop-control", O_RDWR); !control.ok()) {
      GTEST_SKIP() << "BLOCK DEVICES ARE NOT TESTED AS TARGETS: " << control.status();
    }
  }

  absl::StatusOr<std::unique_ptr<MirrorTarget>> Open(const std::string& where, int source_fd = -1, bool existing = true,
                                                     uint64_t bytes = kBytes) {
    return MirrorTarget::Open(
        {.where = where, .existing = existing, .bytes = bytes, .depth = 4, .source_fd = source_fd}, *loop_);
  }
  Fd MakeFile(const std::string& name, uint64_t bytes = kBytes) const {
    Fd file = *OpenFile(directory_ / name, O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    return file;
  }

  ShortDirectory directory_;
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(DeviceTargetTest, ABlockDeviceIsUsed) {
  const Fd file = MakeFile("file");
  const LoopDevice device(file, 4096);
  auto target = Open(device.path());
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->Describe(), "block device, 4 MiB");
  EXPECT_FALSE((*target)->is_zero());
  EXPECT_FALSE(std::filesystem::exists(device.path() + ".incomplete"));
  migration::BlockIo& blocks = (*target)->blocks();
  EXPECT_EQ(blocks.bytes(), kBytes);
  EXPECT_EQ(blocks.block_bytes(), 4096u);
  EXPECT_GE(blocks.cluster_bytes(), 4096u);
  const auto extent = blocks.NextExtent(4096);
  ASSERT_TRUE(extent.ok());
  EXPECT_TRUE(extent->data);
  EXPECT_EQ(extent->bytes, kBytes - 4096);

  BlockDriver driver(*loop_, blocks);
  EXPECT_TRUE(driver.Write(0, std::string(65536, 'x')).ok());
  EXPECT_TRUE(driver.Zero(4096, 8192).ok());
  EXPECT_TRUE(driver.Discard(32768, 4096).ok());
  EXPECT_TRUE(driver.Flush().ok());
  std::string there(16384, '?');
  ASSERT_EQ(pread(file.get(), there.data(), there.size(), 0), 16384);
  EXPECT_TRUE(there == std::string(4096, 'x') + std::string(8192, '\0') + std::string(4096, 'x'));
  EXPECT_TRUE((*target)->MarkComplete().ok());

  auto image = (*target)->TakeImage();
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->sectors(), kBytes / kSectorBytes);
  EXPECT_TRUE((*image)->Release().ok());
  EXPECT_TRUE((*image)->Acquire().ok());
}

TEST_F(DeviceTargetTest, ALargerOneTakesTheDiskAndIsNone) {
  const Fd file = MakeFile("file", 2 * kBytes);
  const LoopDevice device(file);
  auto target = Open(device.path());
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->blocks().bytes(), 2 * kBytes);
  const absl::Status refused = (*target)->CheckCanBeDisk();
  EXPECT_TRUE(absl::StrContains(refused.message(), " has 8388608 bytes, and a machine's disk of 4194304 does not grow"))
      << refused;
}

TEST_F(DeviceTargetTest, TheSourceByAnotherNameIsRefused) {
  const Fd file = MakeFile("file");
  const LoopDevice device(file);
  // The device is the target, its file the source; the other way round; the device both.
  const absl::Status over_source = Open(device.path(), file.get()).status();
  EXPECT_TRUE(absl::StrContains(over_source.message(), "is the disk itself, or shares its blocks")) << over_source;
  const absl::Status under_source = Open(directory_ / "file", device.fd().get()).status();
  EXPECT_TRUE(absl::StrContains(under_source.message(), "is the disk itself, or shares its blocks")) << under_source;
  const absl::Status itself = Open(device.path(), device.fd().get()).status();
  EXPECT_TRUE(absl::StrContains(itself.message(), "is the disk itself, or shares its blocks")) << itself;
  // By another node.
  const std::string node = directory_ / "node";
  struct stat info = {};
  ASSERT_EQ(fstat(device.fd().get(), &info), 0);
  ASSERT_EQ(mknod(node.c_str(), S_IFBLK | 0600, info.st_rdev), 0);
  const Fd pinned = *OpenFile(node, O_PATH);
  EXPECT_TRUE(MayBeSameDisk(pinned.get(), device.fd().get()));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "file.incomplete"));

  const Fd other_file = MakeFile("other");
  const LoopDevice other(other_file);
  EXPECT_FALSE(MayBeSameDisk(other.fd().get(), device.fd().get()));
  EXPECT_FALSE(MayBeSameDisk(other.fd().get(), file.get()));
  EXPECT_TRUE(Open(other.path(), device.fd().get()).ok());
}

TEST_F(DeviceTargetTest, ADeviceOverTheSourcesDeviceIsRefused) {
  const Fd file = MakeFile("file");
  const LoopDevice device(file);
  const LoopDevice above(device.fd());
  EXPECT_TRUE(MayBeSameDisk(above.fd().get(), device.fd().get()));
  EXPECT_FALSE(Open(above.path(), device.fd().get()).ok());
  EXPECT_FALSE(Open(device.path(), above.fd().get()).ok());
}

TEST_F(DeviceTargetTest, DevicesThatCannotBeUsed) {
  const Fd small_file = MakeFile("small", kBytes / 2);
  const LoopDevice small(small_file);
  EXPECT_TRUE(absl::StrContains(Open(small.path()).status().message(), " has 2097152 bytes, and the disk has 4194304"));
  const Fd large_file = MakeFile("large", 2 * kBytes);
  const LoopDevice large(large_file);
  const absl::Status exact =
      MirrorTarget::Open({.where = large.path(), .existing = true, .bytes = kBytes, .exact = true}, *loop_).status();
  EXPECT_TRUE(absl::StrContains(exact.message(), " has 8388608 bytes, the disk has 4194304, and does not grow"))
      << exact;
  const Fd file = MakeFile("file");
  const LoopDevice device(file, 4096);
  EXPECT_TRUE(absl::StrContains(Open(device.path(), -1, false).status().message(), "is there already"));
  EXPECT_TRUE(absl::StrContains(Open(device.path(), -1, true, kBytes - 512).status().message(),
                                "the disk has 4193792 bytes, not a multiple of the block size of "));
  const int on = 1;
  ASSERT_EQ(ioctl(device.fd().get(), BLKROSET, &on), 0);
  const absl::Status read_only = Open(device.path()).status();
  EXPECT_TRUE(absl::IsPermissionDenied(read_only)) << read_only;
  const int off = 0;
  ASSERT_EQ(ioctl(device.fd().get(), BLKROSET, &off), 0);
  // What another one claims: a file system that is mounted does the same.
  const Fd claimed = *OpenFile(device.path(), O_RDONLY | O_EXCL);
  EXPECT_TRUE(absl::StrContains(Open(device.path()).status().message(), "is in use: it is mounted, or a part of"));
  EXPECT_FALSE(std::filesystem::exists(device.path() + ".incomplete"));
}

// A directory with a file system of its own that has little room.
class SmallFileSystem {
 public:
  SmallFileSystem() { FERRITE_CHECK(mount("small", at_.path().c_str(), "tmpfs", 0, "size=1M") == 0); }
  ~SmallFileSystem() { umount2(at_.path().c_str(), MNT_DETACH); }
  SmallFileSystem(const SmallFileSystem&) = delete;
  SmallFileSystem& operator=(const SmallFileSystem&) = delete;

  std::string operator/(const std::string& name) const { return at_ / name; }

 private:
  ShortDirectory at_;
};

TEST_F(DeviceTargetTest, WhatCouldNotBeWrittenOutIsNotForgotten) {
  // The kernel takes what is written to the device into its cache, and finds no room below it later. It says so once.
  const auto fail = [&](auto&& first) {
    const SmallFileSystem small;
    const Fd file = *OpenFile(small / "file", O_RDWR | O_CREAT | O_EXCL, 0600);
    ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(kBytes)), 0);
    const LoopDevice device(file, 4096);
    auto target = Open(device.path());
    ASSERT_TRUE(target.ok()) << target.status();
    BlockDriver driver(*loop_, (*target)->blocks());
    ASSERT_TRUE(driver.Write(0, std::string(2 << 20, 'x')).ok());
    const absl::Status error = first(**target, driver);
    EXPECT_TRUE(absl::StrContains(error.message(), device.path())) << error;
    EXPECT_TRUE(absl::StrContains(error.message(), "No space left") || absl::StrContains(error.message(), "I/O") ||
                absl::StrContains(error.message(), "Input/output error"))
        << error;
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(driver.Flush(), error);
      EXPECT_EQ((*target)->WriteOut(), error);
      EXPECT_EQ((*target)->MarkComplete(), error);
    }
  };
  ASSERT_NO_FATAL_FAILURE(fail([](MirrorTarget&, BlockDriver& driver) { return driver.Flush(); }));
  ASSERT_NO_FATAL_FAILURE(fail([](MirrorTarget& target, BlockDriver&) { return target.WriteOut(); }));
  ASSERT_NO_FATAL_FAILURE(fail([](MirrorTarget& target, BlockDriver&) { return target.MarkComplete(); }));
}

TEST_F(DeviceTargetTest, APartitionOfTheSourceIsRefused) {
  const Fd file = MakeFile("file");
  const LoopDevice device(file, 512, LO_FLAGS_PARTSCAN);
  blkpg_partition range = {};
  range.start = kBytes / 4;
  range.length = kBytes / 4;
  range.pno = 1;
  blkpg_ioctl_arg add = {.op = BLKPG_ADD_PARTITION, .flags = 0, .datalen = sizeof(range), .data = &range};
  ASSERT_EQ(ioctl(device.fd().get(), BLKPG, &add), 0);
  const std::string name = std::filesystem::path(device.path()).filename();
  unsigned major = 0;
  unsigned minor = 0;
  FILE* const in = fopen(absl::StrCat("/sys/block/", name, "/", name, "p1/dev").c_str(), "r");
  ASSERT_NE(in, nullptr);
  ASSERT_EQ(fscanf(in, "%u:%u", &major, &minor), 2);
  fclose(in);
  const std::string node = directory_ / "partition";
  ASSERT_EQ(mknod(node.c_str(), S_IFBLK | 0600, makedev(major, minor)), 0);
  const Fd partition = *OpenFile(node, O_PATH);
  EXPECT_TRUE(MayBeSameDisk(partition.get(), device.fd().get()));
  EXPECT_TRUE(MayBeSameDisk(device.fd().get(), partition.get()));
  EXPECT_TRUE(MayBeSameDisk(partition.get(), file.get()));
}

}  // namespace
}  // namespace ferrite
