// Pages of a round in the middle of which the connection is lost: what came of them is not taken for what comes again
// (R1).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "memory/guest_address.h"
#include "memory/guest_memory.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/placing/memory_landing.h"
#include "migration/placing/page_receiver.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = 8 << 20;
constexpr PageRun kRun{.first = 5, .count = 4};

struct Kind {
  const char* name;
  MemoryBacking backing;
  bool thp;
};

class CutPageTest : public testing::TestWithParam<Kind> {
 protected:
  CutPageTest() {
    memory_ = *GuestMemory::Create(kBytes, GetParam().backing);
    EXPECT_EQ(memory_->regions()[0]->SetThp(GetParam().thp), absl::OkStatus());
    landing_ = std::make_unique<MemoryLanding>(*memory_, RealClock());
    IncomingPart* const parts[] = {landing_.get()};
    placement_ = std::make_unique<Placement>(parts);
    Connect();
  }
  void Connect() {
    receiver_.reset();
    auto ends = *MakeStreamPair();
    source_ = std::move(ends.first);
    feed_ = std::make_unique<StreamPageFeed>(std::move(ends.second));
    receiver_ = std::make_unique<PageReceiver>(*feed_, *placement_, figures_, Showing::kGathered);
  }
  void SendHeader(PageFrameType type) {
    EXPECT_TRUE(source_
                    ->WriteAll(EncodePageHeader(
                        {.type = type, .first_page = kRun.first, .count = static_cast<uint32_t>(kRun.count)}))
                    .ok());
  }
  // Of kRun so many bytes come, and no more.
  void ReceiveCut(uint64_t bytes) {
    SendHeader(PageFrameType::kPages);
    const std::vector<uint8_t> rest(kRun.count * sizeof(uint32_t) + bytes, 0xaa);
    EXPECT_TRUE(source_->WriteAll(std::span<const uint8_t>(rest)).ok());
    source_.reset();
    EXPECT_TRUE(absl::IsUnavailable(receiver_->ReceiveOne(/*live=*/false).status()));
    Connect();
  }
  void ReceiveZero() {
    SendHeader(PageFrameType::kZero);
    EXPECT_TRUE(receiver_->ReceiveOne(/*live=*/false).ok());
  }
  bool IsZero(PageRun run) const {
    const auto bytes = memory_->regions()[0]->guest_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes);
    return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<MemoryLanding> landing_;
  std::unique_ptr<Placement> placement_;
  ReceiveFigures figures_;
  std::unique_ptr<Stream> source_;
  std::unique_ptr<StreamPageFeed> feed_;
  std::unique_ptr<PageReceiver> receiver_;
};

// The guest has cleared them at the source by then.
TEST_P(CutPageTest, WhatComesAsZeroIsZero) {
  for (const uint64_t bytes : {uint64_t{1}, kPageBytes, 5 * kPageBytes / 2, 4 * kPageBytes - 1}) {
    ReceiveCut(bytes);
    EXPECT_FALSE(placement_->IsHere(0, kRun.first)) << "it comes again";
    EXPECT_TRUE(IsZero(kRun)) << "what is not here is zero";
    ReceiveZero();
    EXPECT_TRUE(placement_->IsHere(0, kRun.first));
    EXPECT_TRUE(IsZero(kRun));
    // The same over what is here.
    ReceiveCut(bytes);
    ReceiveZero();
    EXPECT_TRUE(IsZero(kRun));
    ASSERT_EQ(landing_->placer(0).Discard(kRun), absl::OkStatus());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CutPageTest,
                         testing::Values(Kind{"Anonymous", MemoryBacking::kAnonymous, false},
                                         Kind{"HugeAnonymous", MemoryBacking::kAnonymous, true},
                                         Kind{"Memfd", MemoryBacking::kMemfd, false}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ferrite::migration
