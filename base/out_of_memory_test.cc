#include "base/out_of_memory.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

namespace ferrite {
namespace {

TEST(OutOfMemoryTest, FailedAllocationIsAStatus) {
  EXPECT_TRUE(CatchOutOfMemory([] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(CatchOutOfMemory([] { return absl::AbortedError("its own"); }), absl::AbortedError("its own"));
  const absl::Status status = CatchOutOfMemory([]() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(OutOfMemoryTest, OtherExceptionsPass) {
  EXPECT_THROW((void)CatchOutOfMemory([]() -> absl::Status { throw std::logic_error("ours"); }), std::logic_error);
}

TEST(OutOfMemoryTest, WhatMustBeDoneIsRepeated) {
  int calls = 0;
  UntilThereIsMemory([&] {
    if (++calls < 3) {
      throw std::bad_alloc();
    }
  });
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace ferrite
