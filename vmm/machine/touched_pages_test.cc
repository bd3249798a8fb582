#include "vmm/machine/touched_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>

namespace ferrite {
namespace {

using ::testing::Contains;
using ::testing::Not;

constexpr uint64_t kBytes = uint64_t{64} << 20;

// Four levels at 0x1000 to 0x4000: 0x7f00'0020'0000 is a page at 0x5000, the 2 MiB behind it are at 0x200000.
class TouchedPagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    sregs_.efer = 0x500;
    sregs_.cr3 = 0x1000;
    Set(0x1000 + 8 * (kAddress >> 39 & 511), 0x2000 | 7);
    Set(0x2000 + 8 * (kAddress >> 30 & 511), 0x3000 | 7);
    Set(0x3000 + 8 * (kAddress >> 21 & 511), 0x4000 | 7);
    Set(0x3000 + 8 * ((kAddress >> 21 & 511) + 1), 0x8000'0000'0020'0000 | 0x87);  // NX, PS
    Set(0x4000 + 8 * (kAddress >> 12 & 511), 0x8000'0000'0000'5000 | 7);
  }
  void Set(uint64_t at, uint64_t entry) { ASSERT_TRUE(memory_->WriteObject<uint64_t>(GuestAddress(at), entry).ok()); }

  static constexpr uint64_t kAddress = 0x7f00'0020'0000;
  std::unique_ptr<GuestMemory> memory_;
  kvm_sregs sregs_ = {};
};

TEST_F(TouchedPagesTest, WalksToSmallAndLargePagesAndNoFurther) {
  EXPECT_EQ(WalkPageTables(*memory_, sregs_, kAddress + 0x123), GuestAddress(0x5123));
  EXPECT_EQ(WalkPageTables(*memory_, sregs_, kAddress + 0x200000 + 0x12345), GuestAddress(0x212345));
  EXPECT_EQ(WalkPageTables(*memory_, sregs_, kAddress + 0x1000), std::nullopt) << "not present";
  EXPECT_EQ(WalkPageTables(*memory_, sregs_, 0), std::nullopt);
  Set(0x3000 + 8 * (kAddress >> 21 & 511), kBytes | 7);
  EXPECT_EQ(WalkPageTables(*memory_, sregs_, kAddress), std::nullopt) << "a table that is no RAM";
  sregs_.efer = 0;
  EXPECT_EQ(WalkPageTables(*memory_, sregs_, kAddress), std::nullopt) << "not in 64-bit mode";
}

TEST_F(TouchedPagesTest, FindsWhatOneRegisterOrTwoTogetherPointAt) {
  kvm_regs regs = {};
  EXPECT_THAT(TouchedPages(*memory_, regs, sregs_), Not(Contains(GuestAddress(0x5000))));
  regs.rdx = kAddress + 8;
  EXPECT_THAT(TouchedPages(*memory_, regs, sregs_), Contains(GuestAddress(0x5000)));
  regs.rdx = 0x5000;
  regs.r13 = kAddress + 0x200000;
  EXPECT_EQ(TouchedPages(*memory_, regs, sregs_).front(), GuestAddress(0x200000));
  EXPECT_THAT(TouchedPages(*memory_, regs, sregs_), Contains(GuestAddress(0x205000)));
}

}  // namespace
}  // namespace ferrite
