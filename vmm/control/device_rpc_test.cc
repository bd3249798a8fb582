#include "vmm/control/device_rpc.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <string>

namespace ferrite {
namespace {

MachineConfig Config() {
  MachineConfig config;
  config.devices = {RngConfig{}, BalloonConfig{}, DiskConfig{.id = "root", .path = "/root.img", .read_only = true},
                    DiskConfig{.id = "data", .path = "/data.img"}};
  return config;
}

void ExpectDisk(const DeviceReport& report, const std::string& id, const std::string& path, bool read_only) {
  EXPECT_EQ(report.kind, "virtio-blk");
  EXPECT_EQ(report.id, id);
  ASSERT_EQ(report.facts.size(), 2u);
  EXPECT_EQ(report.facts[0].first, "path");
  EXPECT_EQ(std::get<std::string>(report.facts[0].second), path);
  EXPECT_EQ(report.facts[1].first, "read_only");
  EXPECT_EQ(std::get<bool>(report.facts[1].second), read_only);
}

TEST(DeviceRpcTest, DevicesComeInTheirOrder) {
  capnp::MallocMessageBuilder message;
  auto description = message.initRoot<control::Description>();
  FillDevices(Config(), description);
  const auto reports = ReadDevices(description.asReader());
  ASSERT_EQ(reports.size(), 4u);
  EXPECT_EQ(reports[0].kind, "virtio-rng");
  EXPECT_EQ(reports[0].id, "");
  EXPECT_TRUE(reports[0].facts.empty());
  EXPECT_EQ(reports[1].kind, "virtio-balloon");
  ExpectDisk(reports[2], "root", "/root.img", true);
  ExpectDisk(reports[3], "data", "/data.img", false);
}

TEST(DeviceRpcTest, OlderClientsHearOfWhatTheyKnow) {
  capnp::MallocMessageBuilder message;
  auto description = message.initRoot<control::Description>();
  FillDevices(Config(), description);
  EXPECT_TRUE(description.getRng());
  ASSERT_EQ(description.getDisks().size(), 2u);
  EXPECT_STREQ(description.getDisks()[0].getId().cStr(), "root");
  EXPECT_STREQ(description.getDisks()[0].getPath().cStr(), "/root.img");
  EXPECT_TRUE(description.getDisks()[0].getReadOnly());
  MachineConfig none;
  FillDevices(none, description);
  EXPECT_FALSE(description.getRng());
}

TEST(DeviceRpcTest, OlderMonitorsAreUnderstood) {
  capnp::MallocMessageBuilder message;
  auto description = message.initRoot<control::Description>();
  description.setRng(true);
  auto disk = description.initDisks(1)[0];
  disk.setId("root");
  disk.setPath("/root\x1b.img");
  const auto reports = ReadDevices(description.asReader());
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(reports[0].kind, "virtio-rng");
  ExpectDisk(reports[1], "root", "/root?.img", false);
}

TEST(DeviceRpcTest, WordsOfAnybodysMonitorAreClean) {
  capnp::MallocMessageBuilder message;
  auto device = message.initRoot<control::Description>().initDevices(1)[0];
  device.setKind("\x1b");
  device.setId("\x1b");
  auto facts = device.initFacts(2);
  facts[0].setName("\x1b");
  facts[0].setText("\x1b");
  facts[1].setFlag(true);
  const auto reports = ReadDevices(message.getRoot<control::Description>().asReader());
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].kind, "?");
  EXPECT_EQ(reports[0].id, "?");
  EXPECT_EQ(reports[0].facts[0].first, "?");
  EXPECT_EQ(std::get<std::string>(reports[0].facts[0].second), "?");
}

}  // namespace
}  // namespace ferrite
