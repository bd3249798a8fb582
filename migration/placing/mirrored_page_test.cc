// Pages of a part that is mirrored, on their way to it.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "base/thread.h"
#include "memory/guest_address.h"
#include "migration/channel/page_sink.h"
#include "migration/placing/page_receiver.h"
#include "tests/fakes/fake_blocks.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

class MirroredPageTest : public testing::Test {
 protected:
  MirroredPageTest() {
    blocks_.mirrored = true;
    IncomingPart* const parts[] = {&others_.incoming(), &blocks_.incoming()};
    placement_ = std::make_unique<Placement>(parts);
    receiver_ = std::make_unique<PageReceiver>(*ends_.feed, *placement_, figures_, Showing::kGathered);
    EXPECT_TRUE(others_.incoming().Prepare().ok() && blocks_.incoming().Prepare().ok());
  }
  // One page comes.
  absl::Status Receive(uint16_t region, uint64_t page, bool live) {
    const Thread sends = StartOrDie("sends", [&] {
      EXPECT_TRUE(ends_.sink->Pages({.region = region, .first = page, .count = 1}, bytes_).ok());
      // It returns when all is read, or never will be.
      (void)ends_.sink->Flush();
    });
    absl::Status status = receiver_->ReceiveOne(live).status();
    if (!status.ok()) {
      ends_.feed->Shutdown();
    }
    return status;
  }

  const std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kPageBytes, 0xaa);
  FakeBlocks others_, blocks_;
  std::unique_ptr<Placement> placement_;
  ReceiveFigures figures_;
  PairEnds ends_ = MakePairEnds();
  std::unique_ptr<PageReceiver> receiver_;
};

TEST_F(MirroredPageTest, ComesInTheRounds) {
  EXPECT_EQ(Receive(1, 7, /*live=*/false), absl::OkStatus());
  EXPECT_TRUE(placement_->IsHere(1, 7));
  EXPECT_TRUE(placement_->mirrored(1));
  EXPECT_FALSE(placement_->mirrored(0));
}

// R1, R11: the guest may have written it since.
TEST_F(MirroredPageTest, BehindTheSwitchoverItEndsTheConnection) {
  EXPECT_EQ(Receive(0, 7, /*live=*/true), absl::OkStatus());
  const absl::Status refused = Receive(1, 7, /*live=*/true);
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "nothing is missing of region 1")) << refused;
  EXPECT_FALSE(placement_->IsHere(1, 7));
}

}  // namespace
}  // namespace ferrite::migration
