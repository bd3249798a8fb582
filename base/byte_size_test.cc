#include "base/byte_size.h"

#include <gtest/gtest.h>

#include <limits>

namespace ferrite {
namespace {

TEST(ByteSizeTest, IsParsedStrictly) {
  const struct {
    const char* text;
    uint64_t bytes;
  } kGood[] = {
      {"0", 0},
      {"4096", 4096},
      {"1K", 1024},
      {"512M", uint64_t{512} << 20},
      {"3G", uint64_t{3} << 30},
      {"4T", uint64_t{4} << 40},
      {"18446744073709551615", std::numeric_limits<uint64_t>::max()},
      {"16777215T", uint64_t{16'777'215} << 40},
  };
  for (const auto& row : kGood) {
    auto bytes = ParseByteSize(row.text);
    ASSERT_TRUE(bytes.ok()) << row.text << bytes.status();
    EXPECT_EQ(*bytes, row.bytes) << row.text;
  }
  for (const char* bad : {"", "M", "-1", "+1", " 1", "1 ", "1m", "1KB", "1.5G", "0x10", "1MM", "1P",
                          "18446744073709551616", "16777216T", "99999999999999999999999"}) {
    EXPECT_FALSE(ParseByteSize(bad).ok()) << bad;
  }
}

TEST(ByteSizeTest, IsFormattedExactlyAndForPeople) {
  EXPECT_EQ(FormatByteSize(0), "0");
  EXPECT_EQ(FormatByteSize(4097), "4097");
  EXPECT_EQ(FormatByteSize(uint64_t{1536} << 20), "1536M");
  EXPECT_EQ(FormatByteSize(uint64_t{4} << 40), "4T");
  EXPECT_EQ(RoundedByteSize(999), "999 B");
  EXPECT_EQ(RoundedByteSize(1023), "0.999 KiB");
  EXPECT_EQ(RoundedByteSize(uint64_t{1536} << 20), "1.5 GiB");
}

}  // namespace
}  // namespace ferrite
