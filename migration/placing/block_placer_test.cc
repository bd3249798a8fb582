// What is huge when a move is over, on a host that had no huge page to give. anonymous_placer_test and
// huge_memfd_placer_test have the rest.
#include "migration/placing/block_placer.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>

#include <algorithm>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "base/clock.h"
#include "base/memory_settings.h"
#include "memory/memory_region.h"
#include "migration/placing/memory_placer.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlocks = 6;
constexpr uint64_t kFramePages = 32;

// It gives small ones, and says nothing: when it has some again, all blocks become huge.
TEST(BlockPlacerTest, BlocksThatTheHostHadNoHugePagesForBecomeHugeLater) {
  constexpr uint64_t kPages = kBlocks * kBlockPages;
  auto region = MemoryRegion::Create("ram", GuestAddress(0), kPages * kPageBytes, MemoryBacking::kAnonymous);
  ASSERT_TRUE(region.ok()) << region.status();
  ASSERT_EQ((*region)->SetThp(true), absl::OkStatus());
  PageStates states(kPages);
  const auto placer = MemoryPlacer::Create(**region, states, RealClock());
  {
    ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
    const absl::Cleanup enable = [] { prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0); };
    for (uint64_t page = 0; page < kPages; page += kFramePages) {
      const PageRun run{.first = page, .count = kFramePages};
      const auto target = placer->FillTarget(run);
      ASSERT_TRUE(target.ok()) << target.status();
      std::fill(target->begin(), target->end(), 7);
      ASSERT_EQ(placer->Filled(run, nullptr), absl::OkStatus());
    }
  }
  ASSERT_EQ(*(*region)->HugeBytes(), 0u);
  ASSERT_EQ(placer->Disarm(), absl::OkStatus());
  placer->Compact([] { return false; });
  const bool has = HugePageChoice("enabled").value_or("never") != "never";
  EXPECT_EQ(*(*region)->HugeBytes(), has ? kPages * kPageBytes : 0);
  const auto memory = (*region)->guest_mapping();
  EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [](uint8_t byte) { return byte == 7; }));
}

}  // namespace
}  // namespace ferrite::migration
