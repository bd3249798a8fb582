// Memory of which the hardware lost a page (R9): what goes of it, and as what.
#include "migration/sending/memory_part.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/page_map.h"
#include "memory/guest_memory.h"
#include "memory/page_bitmap.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/lost_page.h"
#include "tests/fakes/page_taker.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPages = 64;

class MemoryPartTest : public testing::TestWithParam<MemoryBacking> {
 protected:
  void SetUp() override {
    if (const absl::Status status = PageLoser::Supported(); !status.ok()) {
      GTEST_SKIP() << status;
    }
    auto memory = GuestMemory::Create(kPages * kPageBytes, GetParam());
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    memory_->SetLostListener([this](GuestAddress page) { listed_.push_back(page.value() / kPageBytes); });
    ASSERT_EQ(memory_->Fill(GuestAddress(0), 0x5a, 32 * kPageBytes), absl::OkStatus());
    guest_ = std::make_unique<FakeGuest>(*memory_, FakeGuestWork{.pages = 1});
    log_ = std::make_unique<FakeSourcePort>(*memory_, *guest_);
    part_ = std::make_unique<MemoryPart>(*memory_, *log_, OwnPageMap);
  }
  void Lose(uint64_t page) { ASSERT_EQ(loser_.Lose(*memory_->regions()[0], page * kPageBytes), absl::OkStatus()); }

  // What goes of `run`.
  std::vector<PageHeader> Send(PageRange run, uint64_t pages_per_unit) {
    PairEnds ends = MakePairEnds();
    const uint64_t pages = kPages;
    KeptPages kept({&pages, 1});
    PageTaker taker(std::move(ends.feed), kept);
    PageSender sender(*ends.sink, /*limiter=*/nullptr, /*rest=*/nullptr, clock_, figures_,
                      {.may_go = true, .found = [this](const uint8_t* address) -> absl::StatusOr<PageRange> {
                         const std::optional<PageRange> page = part_->FoundLost(address);
                         EXPECT_TRUE(page.has_value());
                         return page.value_or(PageRange{});
                       }});
    EXPECT_EQ(part_->Send(sender, 0, run, pages_per_unit), absl::OkStatus());
    EXPECT_EQ(sender.SendRoundEnd(1), absl::OkStatus());
    std::vector<PageHeader> frames = taker.AwaitRound(1);
    EXPECT_EQ(frames.back(), RoundFrame(1));
    frames.pop_back();
    return frames;
  }
  static PageHeader LostFrame(uint64_t first, uint32_t count) {
    return {.type = PageFrameType::kPoison, .first_page = first, .count = count};
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<FakeSourcePort> log_;
  std::unique_ptr<MemoryPart> part_;
  PageLoser loser_;
  FakeClock clock_;
  SendFigures figures_;
  std::vector<uint64_t> listed_;
};

// Two that nobody has met, one of them the first, and one that is listed.
TEST_P(MemoryPartTest, LostPagesGoAsLostAndTheirNeighboursAsTheyAre) {
  for (const uint64_t page : {0, 7, 8, 20}) {
    ASSERT_NO_FATAL_FAILURE(Lose(page));
  }
  memory_->regions()[0]->AddLost(20 * kPageBytes);
  const std::vector<PageHeader> first = {LostFrame(0, 1),       PagesFrame(0, 1, 6),  LostFrame(7, 1),
                                         LostFrame(8, 1),       PagesFrame(0, 9, 11), LostFrame(20, 1),
                                         PagesFrame(0, 21, 11), ZeroFrame(0, 32, 4)};
  EXPECT_EQ(Send({.first = 0, .count = 36}, 1), first);
  EXPECT_EQ(listed_, (std::vector<uint64_t>{0, 7, 8})) << "each is told of once";
  EXPECT_EQ(Send({.first = 6, .count = 2}, 1), (std::vector<PageHeader>{PagesFrame(0, 6, 1), LostFrame(7, 1)}));
  EXPECT_EQ(listed_.size(), 3u);
  EXPECT_EQ(figures_.lost.Get().size(), 4u);
}

// The other side's host pages are larger: no part of one is lost.
TEST_P(MemoryPartTest, WholeUnitIsLost) {
  ASSERT_NO_FATAL_FAILURE(Lose(9));
  memory_->regions()[0]->AddLost(9 * kPageBytes);
  EXPECT_EQ(Send({.first = 0, .count = 24}, 8),
            (std::vector<PageHeader>{PagesFrame(0, 0, 8), LostFrame(8, 8), PagesFrame(0, 16, 8)}));
  EXPECT_EQ(figures_.lost.Get(), (std::vector<PageRange>{{.first = 9, .count = 1}})) << "of the account";
}

// A page that was marked as lost where nothing was is not zero; one that is in the balloon is nobody's.
TEST_P(MemoryPartTest, ListedPageIsNotSkippedButInTheBalloon) {
  for (const uint64_t page : {40, 41}) {
    ASSERT_NO_FATAL_FAILURE(Lose(page));
    memory_->regions()[0]->AddLost(page * kPageBytes);
  }
  log_->ballooned = {41};
  PageBitmap skipped(kPages);
  ASSERT_EQ(part_->AddSkipped(0, skipped), absl::OkStatus());
  EXPECT_FALSE(skipped.Test(31));
  EXPECT_FALSE(skipped.Test(40));
  EXPECT_TRUE(skipped.Test(41));
  EXPECT_TRUE(skipped.Test(42));
}

INSTANTIATE_TEST_SUITE_P(Backings, MemoryPartTest, testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const auto& info) { return std::string(MemoryBackingName(info.param)); });

}  // namespace
}  // namespace ferrite::migration
