#include "migration/sending/fault_window.h"

#include <gtest/gtest.h>

#include <random>

namespace ferrite::migration {
namespace {

TEST(FaultWindowTest, GrowsForASequentialReaderToTheLimit) {
  FaultWindow window;
  uint64_t page = 100;
  EXPECT_EQ(window.OnRequest(0, page).pages, 0u);
  uint32_t last = 0;
  for (int i = 0; i < 10; ++i) {
    page += 1 + last;
    const uint32_t now = window.OnRequest(0, page).pages;
    EXPECT_EQ(now, std::min<uint32_t>(last == 0 ? 2 : last * 2, FaultWindow::kMaxPages));
    last = now;
  }
  EXPECT_EQ(last, FaultWindow::kMaxPages);
}

TEST(FaultWindowTest, SendsNothingExtraToARandomReader) {
  FaultWindow window;
  std::mt19937_64 random(1);
  uint64_t extra = 0;
  for (int i = 0; i < 10000; ++i) {
    extra += window.OnRequest(0, random() % (1 << 20)).pages;
  }
  EXPECT_LT(extra, 200u);  // by chance a request lands behind another one
}

TEST(FaultWindowTest, FollowsSeveralStreamsAndRegions) {
  FaultWindow window;
  uint64_t next[4] = {0, 10000, 20000, 30000};
  uint32_t last[4] = {};
  for (int i = 0; i < 8; ++i) {
    for (int s = 0; s < 4; ++s) {
      last[s] = window.OnRequest(static_cast<uint16_t>(s % 2), next[s]).pages;
      next[s] += 1 + last[s];
    }
  }
  for (const uint32_t w : last) {
    EXPECT_EQ(w, FaultWindow::kMaxPages);
  }
}

}  // namespace
}  // namespace ferrite::migration
