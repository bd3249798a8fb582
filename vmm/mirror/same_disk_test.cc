#include "vmm/mirror/same_disk.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

// A sysfs of our own, with links as the kernel's.
class SameDiskTest : public testing::Test {
 protected:
  SameDiskTest() { fs::create_directories(root_ / "dev/block"); }

  // A device whose directory is `path` below devices/.
  void Make(const std::string& path, int minor) const {
    fs::create_directories(fs::path(Directory(path)) / "slaves");
    fs::create_directory_symlink("../../devices/" + path, root_ / absl::StrCat("dev/block/8:", minor));
  }
  void MakeOf(const std::string& path, const std::string& slave) const {
    fs::create_directory_symlink(Directory(slave), fs::path(Directory(path)) / "slaves" / fs::path(slave).filename());
  }
  // Of both sides.
  bool MayBeSame(int one, int other) const {
    const bool same = MayBeSameDevice(root_.path(), makedev(8, one), makedev(8, other));
    EXPECT_EQ(MayBeSameDevice(root_.path(), makedev(8, other), makedev(8, one)), same) << one << " " << other;
    return same;
  }
  std::string Directory(const std::string& path) const { return root_ / ("devices/" + path); }

  ShortDirectory root_;
};

TEST_F(SameDiskTest, DisksAndPartitions) {
  Make("pci/sda", 0);
  Make("pci/sda/sda1", 1);
  Make("pci/sda/sda2", 2);
  Make("pci/sdaa", 16);
  EXPECT_TRUE(MayBeSame(0, 0));
  EXPECT_TRUE(MayBeSame(0, 1));
  EXPECT_FALSE(MayBeSame(1, 2));
  EXPECT_FALSE(MayBeSame(0, 16));
  EXPECT_FALSE(MayBeSame(0, 99)) << "nothing is known of it";
  EXPECT_FALSE(MayBeSame(98, 99));
  EXPECT_TRUE(MayBeSame(99, 99));
}

TEST_F(SameDiskTest, WhatMapsADeviceIsThatDevice) {
  Make("pci/sda", 0);
  Make("pci/sda/sda1", 1);
  Make("pci/sda/sda2", 2);
  Make("pci/sdb", 16);
  Make("virtual/dm-0", 100);  // of sda1 and sdb
  MakeOf("virtual/dm-0", "pci/sda/sda1");
  MakeOf("virtual/dm-0", "pci/sdb");
  Make("virtual/dm-1", 101);  // of dm-0
  MakeOf("virtual/dm-1", "virtual/dm-0");
  Make("virtual/dm-2", 102);  // another volume of it
  MakeOf("virtual/dm-2", "virtual/dm-0");
  Make("virtual/md0", 103);
  MakeOf("virtual/md0", "pci/sda");
  Make("virtual/md0/md0p1", 104);
  for (const int volume : {100, 101, 102}) {
    EXPECT_TRUE(MayBeSame(volume, 0)) << volume;
    EXPECT_TRUE(MayBeSame(volume, 1)) << volume;
    EXPECT_FALSE(MayBeSame(volume, 2)) << volume;
    EXPECT_TRUE(MayBeSame(volume, 16)) << volume;
  }
  EXPECT_TRUE(MayBeSame(100, 101));
  EXPECT_FALSE(MayBeSame(101, 102)) << "two volumes";
  // A partition of what is made of a disk.
  EXPECT_TRUE(MayBeSame(104, 0));
  EXPECT_TRUE(MayBeSame(104, 2));
  EXPECT_FALSE(MayBeSame(104, 16));
}

TEST_F(SameDiskTest, LinksThatLeadNowhereAndRings) {
  Make("virtual/dm-0", 100);
  Make("virtual/dm-1", 101);
  Make("pci/sda", 0);
  fs::create_directory_symlink(root_ / "nothing", fs::path(Directory("virtual/dm-0")) / "slaves/a");
  MakeOf("virtual/dm-0", "virtual/dm-1");
  MakeOf("virtual/dm-1", "virtual/dm-0");
  EXPECT_TRUE(MayBeSame(100, 101));
  EXPECT_FALSE(MayBeSame(100, 0));
}

}  // namespace
}  // namespace ferrite
