#include "migration/sending/zero_page.h"

#include <gtest/gtest.h>

namespace ferrite::migration {
namespace {

TEST(ZeroPageTest, FindsEveryByteThatIsNotZero) {
  alignas(4096) static uint8_t page[4096];
  EXPECT_TRUE(IsZeroPage(page));
  for (int i = 0; i < 4096; ++i) {
    page[i] = static_cast<uint8_t>(1 << (i % 8));
    EXPECT_FALSE(IsZeroPage(page)) << i;
    page[i] = 0;
  }
}

}  // namespace
}  // namespace ferrite::migration
