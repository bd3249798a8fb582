#include "vmm/machine/device_kinds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <variant>

namespace ferrite {
namespace {

using ::testing::HasSubstr;

// Words, a configuration, a description and a report of one device agree.
TEST(DeviceKindsTest, EveryKindComesBackFromItsDescription) {
  std::set<std::string> names;
  for (const DeviceKind& kind : DeviceKinds()) {
    SCOPED_TRACE(kind.name);
    EXPECT_TRUE(names.insert(std::string(kind.name)).second);
    EXPECT_EQ(FindKind(kind.name), &kind);
    const auto parsed = kind.parse(kind.name == "virtio-blk" ? "id=root,path=/root.img" : "4096", 0);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(&KindOf(*parsed), &kind);
    EXPECT_TRUE(kind.check(*parsed, MachineConfig()).ok());
    const DeviceReport report = kind.report(*parsed);
    EXPECT_EQ(report.kind, kind.name);
    EXPECT_EQ(report.id.empty(), kind.most == 1);
    const auto accepted =
        kind.accept(DeviceId(*parsed), {.disks = {{.id = "root", .path = "/root.img", .bytes = 512}}});
    ASSERT_TRUE(accepted.ok()) << accepted.status();
    EXPECT_EQ(DeviceName(*accepted), DeviceName(*parsed));
    EXPECT_EQ(&KindOf(*accepted), &kind);
  }
  EXPECT_EQ(FindKind("virtio-toaster"), nullptr);
}

TEST(DeviceKindsTest, NamesHaveAnIdWhereThereCanBeSeveral) {
  EXPECT_EQ(DeviceName(RngConfig{}), "virtio-rng");
  EXPECT_EQ(DeviceName(BalloonConfig{}), "virtio-balloon");
  EXPECT_EQ(DeviceName(DiskConfig{.id = "root"}), "virtio-blk:root");
}

TEST(DeviceKindsTest, DiskTakesItsWords) {
  const DeviceKind& kind = *FindKind("virtio-blk");
  const auto disk = kind.parse("path=/a=b,ro", 3);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(std::get<DiskConfig>(*disk).id, "disk3");
  EXPECT_EQ(std::get<DiskConfig>(*disk).path, "/a=b");
  EXPECT_TRUE(std::get<DiskConfig>(*disk).read_only);
  for (const char* words : {"", "root.img", "id=a", "path=", "path=a,rw", "path=a,path=b"}) {
    EXPECT_THAT(kind.parse(words, 0).status().message(), HasSubstr("write [id=ID,]path=FILE[,ro]")) << words;
  }
}

TEST(DeviceKindsTest, DiskWithoutADescriptionIsRefused) {
  EXPECT_THAT(FindKind("virtio-blk")->accept("data", {.disks = {{.id = "root"}}}).status().message(),
              HasSubstr("virtio-blk:data has no disk"));
}

}  // namespace
}  // namespace ferrite
