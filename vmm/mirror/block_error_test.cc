#include "vmm/mirror/block_error.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace ferrite {
namespace {

using migration::BlockOperation;

BlockOperation Make(BlockOperation::Kind kind) {
  BlockOperation operation;
  operation.kind = kind;
  operation.offset = 8192;
  operation.bytes = 4096;
  return operation;
}

TEST(BlockErrorTest, NamesTheObjectTheOperationAndTheErrno) {
  using Kind = BlockOperation::Kind;
  EXPECT_EQ(BlockWords(Make(Kind::kRead), "/d"), "read 4096 bytes at 8192 of /d");
  EXPECT_EQ(BlockWords(Make(Kind::kWrite), "/d"), "write 4096 bytes at 8192 of /d");
  EXPECT_EQ(BlockWords(Make(Kind::kWriteZeroes), "/d"), "zero 4096 bytes at 8192 of /d");
  EXPECT_EQ(BlockWords(Make(Kind::kDiscard), "/d"), "discard 4096 bytes at 8192 of /d");
  EXPECT_EQ(BlockWords(Make(Kind::kFlush), "/d"), "flush /d");
  EXPECT_EQ(BlockResult(Make(Kind::kFlush), "/d", EIO).message(), "flush /d: Input/output error");
  EXPECT_TRUE(BlockResult(Make(Kind::kFlush), "/d", 0).ok());
}

TEST(BlockErrorTest, OnlyLackOfRoomIsExhaustion) {
  const BlockOperation write = Make(BlockOperation::Kind::kWrite);
  for (const int error : {ENOSPC, EDQUOT}) {
    EXPECT_TRUE(absl::IsResourceExhausted(BlockResult(write, "/d", error))) << error;
  }
  for (const int error : {EIO, ENOMEM, EMFILE, ENOBUFS, EFBIG, EPERM}) {
    EXPECT_FALSE(absl::IsResourceExhausted(BlockResult(write, "/d", error))) << error;
    EXPECT_FALSE(BlockResult(write, "/d", error).ok()) << error;
  }
}

TEST(BlockErrorTest, NothingIsUnavailable) {
  const BlockOperation write = Make(BlockOperation::Kind::kWrite);
  for (int error = 1; error < 134; ++error) {
    EXPECT_FALSE(absl::IsUnavailable(BlockResult(write, "/d", error))) << error;
    EXPECT_FALSE(BlockResult(write, "/d", error).ok()) << error;
  }
}

}  // namespace
}  // namespace ferrite
