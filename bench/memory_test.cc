// The promise about the monitor's own memory (docs/specification.md): below 5 MiB beside a guest of 128 MiB.
#include <gtest/gtest.h>

#include "bench/memory_use.h"

namespace ferrite {
namespace {

TEST(MonitorMemoryTest, IsBelowThePromise) {
  const auto memory = MeasureMonitorMemory();
  ASSERT_TRUE(memory.ok()) << memory.status();
  for (const MemoryUse& use : {memory->at_rest, memory->after_commands}) {
    // The figures are those of a machine: its guest's RAM was told apart.
    EXPECT_GT(use.guest_resident, 16 << 20);
    EXPECT_GT(use.program, 0);
    // What every machine pays is no matter of optimisation.
    EXPECT_LT(use.anonymous + use.kernel, 2 << 20) << use.Parts();
#ifdef NDEBUG
    EXPECT_LT(use.own, 5 << 20) << use.Parts();
#endif
  }
}

}  // namespace
}  // namespace ferrite
