#include "migration/api/mirror_options.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

TEST(MirrorOptionsTest, NamesAreTheFields) {
  EXPECT_EQ(CopyModeName(CopyMode::kBackground), "background");
  EXPECT_EQ(CopyModeName(CopyMode::kWriteBlocking), "write-blocking");
  EXPECT_EQ(ErrorPolicyName(ErrorPolicy::kReport), "report");
  EXPECT_EQ(ErrorPolicyName(ErrorPolicy::kIgnore), "ignore");
  EXPECT_EQ(ErrorPolicyName(ErrorPolicy::kStop), "stop");
  EXPECT_EQ(ErrorPolicyName(ErrorPolicy::kEnospc), "enospc");
  EXPECT_EQ(MirrorStateName(MirrorState::kRunning), "running");
  EXPECT_EQ(MirrorStateName(MirrorState::kReady), "ready");
  EXPECT_EQ(MirrorStateName(MirrorState::kPaused), "paused");
  EXPECT_EQ(MirrorStateName(MirrorState::kCompleting), "completing");
  EXPECT_EQ(MirrorStateName(MirrorState::kCompleted), "completed");
  EXPECT_EQ(MirrorStateName(MirrorState::kCancelled), "cancelled");
  EXPECT_EQ(MirrorStateName(MirrorState::kFailed), "failed");
}

TEST(MirrorOptionsTest, AreCheckedByTable) {
  const struct {
    MirrorOptions options;
    const char* says;  // null: they can be
  } cases[] = {
      {{}, nullptr},
      {{.granularity = 4096, .buffer_bytes = 1 << 20, .in_flight = 1, .downtime_limit = absl::ZeroDuration()}, nullptr},
      {{.granularity = 64 << 20, .buffer_bytes = 1 << 30, .in_flight = 256}, nullptr},
      {{.granularity = 0}, "granularity 0"},
      {{.granularity = 2048}, "granularity 2048"},
      {{.granularity = 65536 + 4096}, "granularity 69632"},
      {{.granularity = 128 << 20, .buffer_bytes = 1 << 30}, "granularity 134217728"},
      {{.buffer_bytes = (1 << 20) - 1}, "buffer 1048575"},
      {{.buffer_bytes = (uint64_t{1} << 30) + 1}, "buffer 1073741825"},
      {{.granularity = 32 << 20}, "buffer 16777216: at least one chunk"},
      {{.in_flight = 0}, "in-flight 0"},
      {{.in_flight = 257}, "in-flight 257"},
      {{.downtime_limit = absl::Milliseconds(-1)}, "downtime-limit -1ms"},
  };
  for (const auto& one : cases) {
    const absl::Status status = CheckMirrorOptions(one.options);
    if (one.says == nullptr) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << one.says;
    EXPECT_NE(status.message().find(one.says), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace ferrite::migration
