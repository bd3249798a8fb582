// The codec of control messages where memory is short.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/out_of_memory.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/sample_messages.h"
#include "tests/fakes/scarcity.h"

namespace ferrite::migration {
namespace {

TEST(MessagesScarcityTest, LackOfMemoryIsSaid) {
  uint64_t all_refused = 0;
  for (const Message& message : SampleMessages()) {
    const std::vector<uint64_t> payload = PayloadOf(Encode(message));
    uint64_t refused = 1;
    for (uint64_t nth = 1; refused > 0; ++nth) {
      Scarcity scarcity(Scarce::kMemory, nth);
      const absl::StatusOr<Message> read = Decode(payload);
      scarcity.End();
      refused = scarcity.refused();
      all_refused += refused;
      ASSERT_EQ(read.status().code(), refused > 0 ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk)
          << MessageName(message) << ", " << nth << ". allocation: " << read.status();
    }
    refused = 1;
    for (uint64_t nth = 1; refused > 0; ++nth) {
      Scarcity scarcity(Scarce::kMemory, nth);
      const absl::Status written = CatchOutOfMemory([&] {
        (void)Encode(message);
        return absl::OkStatus();
      });
      scarcity.End();
      refused = scarcity.refused();
      all_refused += refused;
      ASSERT_EQ(written.code(), refused > 0 ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk)
          << MessageName(message) << ", " << nth << ". allocation: " << written;
    }
  }
  EXPECT_GT(all_refused, 30u);
}

}  // namespace
}  // namespace ferrite::migration
