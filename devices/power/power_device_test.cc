#include "devices/power/power_device.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"

namespace ferrite {
namespace {

class PowerDeviceTest : public testing::Test {
 protected:
  uint8_t In(uint64_t offset) {
    uint8_t value = 0x77;
    device_.Read(offset, {&value, 1});
    return value;
  }
  void Out(uint64_t offset, uint8_t value) { device_.Write(offset, {&value, 1}); }

  int power_offs_ = 0;
  int resets_ = 0;
  PowerDevice device_{"power", [this] { ++power_offs_; }, [this] { ++resets_; }};
};

TEST_F(PowerDeviceTest, SleepTypeS5WithTheEnableBitPowersOff) {
  Out(PowerDevice::kSleepControl, 0x34);
  EXPECT_EQ(power_offs_, 1);
  Out(PowerDevice::kSleepControl, (PowerDevice::kSleepTypeS5 << 2) | 0x20);
  EXPECT_EQ(power_offs_, 2);
  EXPECT_EQ(resets_, 0);
}

TEST_F(PowerDeviceTest, NoOtherValueDoes) {
  for (int value = 0; value < 256; ++value) {
    // Reserved bits, and the ones that software ignores, do not count.
    if ((value & 0x3c) != 0x34) {
      Out(PowerDevice::kSleepControl, static_cast<uint8_t>(value));
    }
    if (value != PowerDevice::kResetValue) {
      Out(PowerDevice::kReset, static_cast<uint8_t>(value));
    }
    Out(PowerDevice::kSleepStatus, static_cast<uint8_t>(value));
  }
  EXPECT_EQ(power_offs_, 0);
  EXPECT_EQ(resets_, 0);
}

TEST_F(PowerDeviceTest, ResetValueResets) {
  Out(PowerDevice::kReset, PowerDevice::kResetValue);
  EXPECT_EQ(resets_, 1);
  EXPECT_EQ(power_offs_, 0);
}

TEST_F(PowerDeviceTest, RegistersReadAsZero) {
  for (uint64_t offset = 0; offset < PowerDevice::kRegisters; ++offset) {
    EXPECT_EQ(In(offset), 0) << offset;
  }
}

// The guest chooses offsets and widths (R11).
TEST_F(PowerDeviceTest, OtherWidthsAndOffsetsReadAsAllOnesAndDoNothing) {
  for (const size_t width : {size_t{0}, size_t{2}, size_t{4}, size_t{8}}) {
    std::vector<uint8_t> data(width, 0x77);
    device_.Read(0, data);
    EXPECT_EQ(data, std::vector<uint8_t>(width, 0xff));
    device_.Write(PowerDevice::kSleepControl, std::vector<uint8_t>(width, 0x34));
    device_.Write(PowerDevice::kReset, std::vector<uint8_t>(width, 0x01));
  }
  for (const uint64_t offset : {PowerDevice::kRegisters, ~uint64_t{0}}) {
    EXPECT_EQ(In(offset), 0xff);
    Out(offset, 0x34);
    Out(offset, 0x01);
  }
  EXPECT_EQ(power_offs_, 0);
  EXPECT_EQ(resets_, 0);
}

TEST_F(PowerDeviceTest, StateIsSavedLoadedAndReset) {
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  device_.Save(state);
  EXPECT_EQ(state.getName(), "power");
  EXPECT_EQ(state.getVersion(), PowerDevice::kStateVersion);
  ASSERT_TRUE(device_.CheckState(state.asReader()).ok());

  state.getPower().setSleepStatus(0x80);
  ASSERT_TRUE(device_.CheckState(state.asReader()).ok());
  device_.LoadState(state.asReader());
  EXPECT_EQ(In(PowerDevice::kSleepStatus), 0x80);
  Out(PowerDevice::kSleepStatus, 0x7f);
  EXPECT_EQ(In(PowerDevice::kSleepStatus), 0x80);
  Out(PowerDevice::kSleepStatus, 0x80);
  EXPECT_EQ(In(PowerDevice::kSleepStatus), 0);
  device_.LoadState(state.asReader());
  device_.Reset();
  EXPECT_EQ(In(PowerDevice::kSleepStatus), 0);
}

// R7: what cannot be is refused with the device's and the field's name.
TEST_F(PowerDeviceTest, StatesThatCannotBeAreRefusedByField) {
  struct Case {
    const char* field;
    std::function<void(state::Device::Builder)> spoil;
  };
  const Case kCases[] = {
      {"name", [](auto state) { state.setName("serial0"); }},
      {"kind", [](auto state) { state.initSerial(); }},
      {"version", [](auto state) { state.setVersion(2); }},
      {"version", [](auto state) { state.setVersion(0); }},
      {"sleepStatus", [](auto state) { state.getPower().setSleepStatus(0x81); }},
  };
  for (const Case& test : kCases) {
    capnp::MallocMessageBuilder message;
    auto state = message.initRoot<state::Device>();
    device_.Save(state);
    test.spoil(state);
    const absl::Status status = device_.CheckState(state.asReader());
    ASSERT_FALSE(status.ok()) << test.field;
    EXPECT_TRUE(absl::StrContains(status.message(), std::string("state of power: field ") + test.field + " "))
        << status;
  }
}

}  // namespace
}  // namespace ferrite
