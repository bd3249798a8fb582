// R11: what a source says over a channel with a queue pair beside it that does not keep to the wire's rules.
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "base/thread.h"
#include "migration/channel/rdma/rdma_rig.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

using RdmaRefusalsTest = RdmaPagesTest;

TEST_F(RdmaRefusalsTest, WhatNobodyMaySayIsRefused) {
  AwaitKey(0);
  const PageHeader cases[] = {
      {.type = PageFrameType::kPages, .first_page = kChunkPages, .count = 1, .bytes = PageBytes::kWritten},
      {.type = PageFrameType::kPages, .first_page = kChunkPages - 1, .count = 2, .bytes = PageBytes::kWritten},
      {.type = PageFrameType::kPages, .region = 1, .count = 1, .bytes = PageBytes::kWritten},
      {.type = PageFrameType::kBarrier, .count = 0},
      {.type = PageFrameType::kBarrier, .count = 1000},
      {.type = PageFrameType::kKey, .count = kChunkPages},
      {.type = PageFrameType::kAskKey, .first_page = 1, .count = kChunkPages},
      {.type = PageFrameType::kAskKey, .count = 2 * kChunkPages},
      {.type = PageFrameType::kAskKey, .first_page = kChunks * kChunkPages, .count = kChunkPages},
      {.type = PageFrameType::kAskKey, .region = 1, .count = kChunkPages},
  };
  for (const PageHeader& header : cases) {
    SCOPED_TRACE(testing::Message() << static_cast<int>(header.type) << " " << header.first_page);
    OpenChannel();
    ASSERT_EQ(raw_->WriteAll(EncodePageHeader(header)), absl::OkStatus());
    EXPECT_EQ(feed_->Next(*this).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(written_.empty());
}

TEST_F(RdmaRefusalsTest, WhatIsWrittenBehindTheEndIsRefused) {
  AwaitKey(0);
  place_->End();
  ASSERT_EQ(raw_->WriteAll(EncodePageHeader({.type = PageFrameType::kPages, .count = 1, .bytes = PageBytes::kWritten})),
            absl::OkStatus());
  EXPECT_EQ(feed_->Next(*this).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RdmaRefusalsTest, KeysAreNotAskedForWithoutEnd) {
  fabric_.Hold(Held::kRegistrations);
  Thread asker = StartOrDie("test-ask", [this] {
    for (int i = 0; i < 100; ++i) {
      (void)raw_->WriteAll(EncodePageHeader({.type = PageFrameType::kAskKey, .count = kChunkPages}));
    }
    raw_->Shutdown();
  });
  EXPECT_EQ(feed_->Next(*this).status().code(), absl::StatusCode::kInvalidArgument);
  fabric_.LetGo(Held::kRegistrations);
}

}  // namespace
}  // namespace ferrite::migration
