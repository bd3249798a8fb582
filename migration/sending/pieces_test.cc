// In what pieces the rest goes behind the switchover.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/api/move_options.h"
#include "migration/channel/pair/pair_pages.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/bulk_size.h"
#include "migration/sending/page_source.h"
#include "migration/sending/send_figures.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

// A channel over which what goes waits for what went before it.
class SlowLine final : public PairPageSink {
 public:
  SlowLine(std::shared_ptr<FramePipe> frames, absl::Duration delay)
      : PairPageSink(std::move(frames), *RequestPipe::Create(RealClock()), "the destination"), delay_(delay) {}
  absl::Duration QueueDelay() const override { return delay_; }

 private:
  const absl::Duration delay_;
};

// R5: a page that is on its way already waits for little, and one that is not for less.
class PiecesTest : public testing::TestWithParam<absl::Duration> {};
INSTANTIATE_TEST_SUITE_P(Delays, PiecesTest, testing::Values(absl::ZeroDuration(), absl::Milliseconds(4)));
TEST_P(PiecesTest, RestGoesInSmallOnesWhereTheLineIsSlow) {
  const FakeClock clock;  // stands still: nothing that goes now is measured
  const TestHost host(clock);
  FakePart large({300});
  const std::shared_ptr<FramePipe> frames = *FramePipe::Create(RealClock());
  KeptPages kept(std::vector<uint64_t>{300});
  PageTaker taker(std::make_unique<PairPageFeed>(frames, *RequestPipe::Create(RealClock()), "the source"), kept);
  PageSource::Channels sinks;
  sinks.page.push_back(std::make_unique<SlowLine>(frames, GetParam()));
  PairEnds urgent = MakePairEnds();
  sinks.urgent.push_back(std::move(urgent.sink));
  SendFigures figures;
  auto source = *PageSource::Create(host.get(), {&large}, std::vector<uint64_t>{1}, std::move(sinks), MoveOptions(),
                                    figures, [](const absl::Status&) {});
  source->MakePending({0, 0, 300});
  source->StartPostcopy();
  source->StartRest();
  EXPECT_EQ(source->FinishRest(), absl::OkStatus());
  std::vector<PageHeader> expected;
  BulkSize size(clock, 1);
  for (uint64_t page = 0; page < 300; page += expected.back().count, size.Sent(GetParam(), 0)) {
    expected.push_back(PagesFrame(0, page, std::min(size.pages(), 300 - page)));
  }
  EXPECT_EQ(size.pages(), GetParam() == absl::ZeroDuration() ? BulkSize::kFirst * 5 / 4 + 1 : BulkSize::kFirst / 2);
  expected.push_back(RoundFrame(kLastRound));
  EXPECT_EQ(taker.AwaitRound(kLastRound), expected);
}

}  // namespace
}  // namespace ferrite::migration
