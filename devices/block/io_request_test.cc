#include "devices/block/io_request.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>

#include <array>
#include <cerrno>
#include <climits>

namespace ferrite {
namespace {

using Kind = IoRequest::Kind;

constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

uint64_t BytesOf(const IoCall& call) {
  uint64_t bytes = 0;
  for (const iovec& buffer : call.buffers) {
    bytes += buffer.iov_len;
  }
  return bytes;
}

class TransferTest : public testing::Test {
 protected:
  TransferTest() {
    request_.kind = Kind::kWrite;
    request_.offset = 1000;
    request_.buffers = {{memory_.data(), 10}, {memory_.data() + 100, 20}};
    request_.Begin();
  }

  std::array<char, 200> memory_ = {};
  IoRequest request_;
};

TEST_F(TransferTest, GoesOnAfterAShortCount) {
  EXPECT_EQ(BytesOf(request_.NextCall()), 30u);
  EXPECT_FALSE(request_.Finish(4));
  IoCall call = request_.NextCall();
  EXPECT_EQ(call.offset, 1004u);
  EXPECT_EQ(call.buffers[0].iov_base, memory_.data() + 4);
  EXPECT_EQ(BytesOf(call), 26u);

  EXPECT_FALSE(request_.Finish(6 + 5));
  call = request_.NextCall();
  EXPECT_EQ(call.offset, 1015u);
  ASSERT_EQ(call.buffers.size(), 1u);
  EXPECT_EQ(call.buffers[0].iov_base, memory_.data() + 105);
  EXPECT_EQ(call.buffers[0].iov_len, 15u);

  EXPECT_TRUE(request_.Finish(15));
  EXPECT_EQ(request_.error, 0);
}

TEST_F(TransferTest, NothingMovedIsAnErrorAndNotALoop) {
  EXPECT_FALSE(request_.Finish(10));
  EXPECT_TRUE(request_.Finish(0));
  EXPECT_EQ(request_.error, EIO);
}

TEST_F(TransferTest, PassesErrorsOn) {
  EXPECT_FALSE(request_.Finish(10));
  EXPECT_TRUE(request_.Finish(-ENOSPC));
  EXPECT_EQ(request_.error, ENOSPC);
}

TEST_F(TransferTest, TriesAgainAfterAnInterruptionButNotForEver) {
  EXPECT_FALSE(request_.Finish(-EINTR));
  EXPECT_FALSE(request_.Finish(-EAGAIN));
  EXPECT_EQ(request_.NextCall().offset, 1000u);
  int tries = 2;
  while (!request_.Finish(-EAGAIN)) {
    ASSERT_LT(++tries, 1000);
  }
  EXPECT_EQ(request_.error, EAGAIN);
}

TEST_F(TransferTest, AShortCountStartsTheCountOfTriesAnew) {
  for (int i = 0; i < 25; ++i) {
    for (int j = 0; j < 50; ++j) {
      ASSERT_FALSE(request_.Finish(-EINTR));
    }
    ASSERT_FALSE(request_.Finish(1));
  }
}

TEST_F(TransferTest, MayBeUsedAgain) {
  EXPECT_TRUE(request_.Finish(-EIO));
  request_.buffers = {{memory_.data(), 7}};
  request_.Begin();
  EXPECT_TRUE(request_.Finish(7));
  EXPECT_EQ(request_.error, 0);
}

TEST(IoRequestTest, NoCallHasMoreBuffersThanTheKernelTakes) {
  std::array<char, 1> byte;
  IoRequest request;
  request.buffers.assign(IOV_MAX + 5, iovec{byte.data(), 1});
  request.Begin();
  EXPECT_EQ(request.NextCall().buffers.size(), size_t{IOV_MAX});
  EXPECT_FALSE(request.Finish(IOV_MAX));
  EXPECT_EQ(request.NextCall().buffers.size(), 5u);
  EXPECT_TRUE(request.Finish(5));
}

TEST(IoRequestTest, DiscardIsAdvice) {
  for (const int refusal : {EOPNOTSUPP, EINVAL, ENOSYS}) {
    IoRequest request;
    request.kind = Kind::kDiscard;
    request.bytes = 4096;
    request.Begin();
    EXPECT_EQ(request.NextCall().mode, kPunch);
    EXPECT_TRUE(request.Finish(-refusal));
    EXPECT_EQ(request.error, 0);
    request.Begin();
    EXPECT_TRUE(request.Finish(-EIO));
    EXPECT_EQ(request.error, EIO);
  }
}

TEST(IoRequestTest, ZeroesAreWrittenWhereTheFileSystemCannotMakeThem) {
  constexpr uint64_t kBytes = (uint64_t{5} << 20) + 512;
  IoRequest request;
  request.kind = Kind::kWriteZeroes;
  request.offset = 4096;
  request.bytes = kBytes;
  request.unmap = true;
  request.Begin();
  EXPECT_EQ(request.NextCall().mode, kPunch);
  EXPECT_FALSE(request.Finish(-EOPNOTSUPP));
  EXPECT_EQ(request.NextCall().mode, kZero);
  EXPECT_EQ(request.NextCall().bytes, kBytes);
  EXPECT_FALSE(request.Finish(-EOPNOTSUPP));
  uint64_t written = 0;
  bool over = false;
  while (!over) {
    const IoCall call = request.NextCall();
    EXPECT_EQ(call.kind, IoCall::Kind::kWrite);
    EXPECT_EQ(call.offset, 4096 + written);
    ASSERT_GT(BytesOf(call), 0u);
    written += BytesOf(call);
    ASSERT_LE(written, kBytes);
    over = request.Finish(static_cast<int64_t>(BytesOf(call)));
  }
  EXPECT_EQ(written, kBytes);
  EXPECT_EQ(request.error, 0);
}

TEST(IoRequestTest, ZeroesKeepTheirBlocksUnlessAHoleWillDo) {
  IoRequest request;
  request.kind = Kind::kWriteZeroes;
  request.bytes = 4096;
  request.Begin();
  EXPECT_EQ(request.NextCall().mode, kZero);
  EXPECT_TRUE(request.Finish(0));
}

}  // namespace
}  // namespace ferrite
