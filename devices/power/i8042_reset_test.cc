#include "devices/power/i8042_reset.h"

#include <gtest/gtest.h>

#include <vector>

namespace ferrite {
namespace {

class I8042ResetTest : public testing::Test {
 protected:
  int resets_ = 0;
  I8042Reset device_{[this] { ++resets_; }};
};

TEST_F(I8042ResetTest, OnlyTheResetCommandResets) {
  for (int value = 0; value < 256; ++value) {
    const uint8_t command = static_cast<uint8_t>(value);
    device_.Write(0, {&command, 1});
  }
  EXPECT_EQ(resets_, 1);
}

// Linux waits for "input buffer empty" before it sends the command.
TEST_F(I8042ResetTest, StatusIsZero) {
  uint8_t status = 0x77;
  device_.Read(0, {&status, 1});
  EXPECT_EQ(status, 0);
}

TEST_F(I8042ResetTest, OtherWidthsAndOffsetsReadAsAllOnesAndDoNothing) {
  std::vector<uint8_t> data(2, 0x77);
  device_.Read(0, data);
  EXPECT_EQ(data, std::vector<uint8_t>(2, 0xff));
  device_.Write(0, std::vector<uint8_t>(2, 0xfe));
  device_.Write(0, {});
  device_.Write(1, std::vector<uint8_t>(1, 0xfe));
  data.resize(1);
  device_.Read(1, data);
  EXPECT_EQ(data[0], 0xff);
  EXPECT_EQ(resets_, 0);
}

}  // namespace
}  // namespace ferrite
