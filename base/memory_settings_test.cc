#include "base/memory_settings.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace ferrite {
namespace {

TEST(MemorySettingsTest, ChosenIsWhatIsInBrackets) {
  EXPECT_EQ(ChosenOf("always [madvise] never"), "madvise");
  EXPECT_EQ(ChosenOf("[always] madvise never"), "always");
  EXPECT_EQ(ChosenOf("always madvise never"), std::nullopt);
  EXPECT_EQ(ChosenOf("always] [madvise"), std::nullopt);
  EXPECT_EQ(ChosenOf(""), std::nullopt);
}

TEST(MemorySettingsTest, WhatTheKernelHasNotIsNothing) {
  EXPECT_EQ(HugePageChoice("no-such-file"), std::nullopt);
  EXPECT_EQ(MemInfoBytes("NoSuchLine"), std::nullopt);
  EXPECT_EQ(MemInfoBytes("Mem"), std::nullopt) << "a name is a whole one";
}

TEST(MemorySettingsTest, MemoryIsInBytes) {
  EXPECT_EQ(MemInfoBytes("MemTotal"), static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * getpagesize());
  EXPECT_LE(MemInfoBytes("MemAvailable"), MemInfoBytes("MemTotal"));
}

}  // namespace
}  // namespace ferrite
