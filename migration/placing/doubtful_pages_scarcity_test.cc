// Pages that come otherwise where memory is short.
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/status/status.h"
#include "base/out_of_memory.h"
#include "memory/page_range.h"
#include "migration/placing/doubtful_pages.h"
#include "tests/fakes/scarcity.h"

namespace ferrite::migration {
namespace {

// Which ends the connection, with nothing half made: what comes over the next one is doubted and settled as ever.
TEST(DoubtfulPagesScarcityTest, LackOfMemoryLeavesNothingInDoubtAndIsOverWhenThereIsSome) {
  constexpr PageRange kLast{.region = 1, .first = 198, .count = 2};
  uint64_t all_refused = 0;
  uint64_t refused = 1;
  for (uint64_t nth = 1; refused > 0; ++nth) {
    DoubtfulPages pages({100, 200});
    Scarcity scarcity(Scarce::kMemory, nth);
    const absl::Status status = CatchOutOfMemory([&] {
      pages.Doubt(kLast);
      return absl::OkStatus();
    });
    scarcity.End();
    refused = scarcity.refused();
    all_refused += refused;
    ASSERT_EQ(status.code(), refused > 0 ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk)
        << nth << ". allocation: " << status;
    if (refused > 0) {
      EXPECT_EQ(pages.Count(), 0u) << nth;
      pages.Settle(kLast);
      pages.Doubt(kLast);
    }
    EXPECT_EQ(pages.Count(), 2u) << nth;
    pages.Settle(kLast);
    EXPECT_EQ(pages.Count(), 0u) << nth;
  }
  // A bitmap, and its words.
  EXPECT_GE(all_refused, 2u);
}

}  // namespace
}  // namespace ferrite::migration
