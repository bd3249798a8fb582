#include "vmm/mirror/file_blocks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "vmm/mirror/block_driver.h"
#include "vmm/mirror/flush_record.h"

namespace ferrite {
namespace {

using migration::BlockIo;
using Operation = migration::BlockOperation;

constexpr uint64_t kBytes = uint64_t{4} << 20;
constexpr uint32_t kDepth = 4;

class FileBlocksTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-blocks-XXXXXX";
    file_ = Fd(mkostemp(pattern.data(), O_CLOEXEC));
    ASSERT_TRUE(file_.valid());
    unlink(pattern.c_str());
    ASSERT_EQ(ftruncate(file_.get(), kBytes), 0);
    auto loop = EventLoop::Create("test-loop");
    ASSERT_TRUE(loop.ok());
    loop_ = *std::move(loop);
    auto blocks = MakeFileBlocks("the-file", *file_.Duplicate(), kBytes, *loop_, kDepth);
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    blocks_ = *std::move(blocks);
    driver_ = std::make_unique<BlockDriver>(*loop_, *blocks_);
  }

  std::string Contents(off_t offset, size_t bytes) {
    std::string out(bytes, '?');
    EXPECT_EQ(pread(file_.get(), out.data(), bytes, offset), static_cast<ssize_t>(bytes));
    return out;
  }
  uint64_t Allocated() {
    struct stat info = {};
    EXPECT_EQ(fstat(file_.get(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }
  // "data 65536, hole 4096 ..." of all of it.
  std::vector<std::pair<uint64_t, bool>> Extents(uint64_t from = 0) {
    std::vector<std::pair<uint64_t, bool>> all;
    while (from < kBytes) {
      const auto extent = blocks_->NextExtent(from);
      EXPECT_TRUE(extent.ok()) << extent.status();
      if (!extent.ok() || extent->bytes == 0 || extent->bytes > kBytes - from) {
        ADD_FAILURE() << "at " << from;
        break;
      }
      all.emplace_back(extent->bytes, extent->data);
      from += extent->bytes;
    }
    return all;
  }

  Fd file_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<BlockIo> blocks_;
  std::unique_ptr<BlockDriver> driver_;
};

TEST_F(FileBlocksTest, SaysWhatItIs) {
  EXPECT_EQ(blocks_->name(), "the-file");
  EXPECT_EQ(blocks_->bytes(), kBytes);
  EXPECT_EQ(blocks_->block_bytes(), 512u);
  EXPECT_EQ(blocks_->cluster_bytes(), 4096u);
}

TEST_F(FileBlocksTest, WritesAndReadsBack) {
  const std::string data(8192, 'x');
  EXPECT_TRUE(driver_->Write(512, data).ok());
  EXPECT_EQ(Contents(512, data.size()), data);
  EXPECT_EQ(Contents(0, 512), std::string(512, '\0'));
  EXPECT_EQ(driver_->Read(512, data.size()), data);
  EXPECT_TRUE(driver_->Flush().ok());
}

TEST_F(FileBlocksTest, ZeroesAndDiscardsLeaveHoles) {
  EXPECT_TRUE(driver_->Write(0, std::string(1 << 20, 'x')).ok());
  const uint64_t before = Allocated();
  EXPECT_TRUE(driver_->Zero(65536, 65536).ok());
  EXPECT_EQ(Contents(65536, 65536), std::string(65536, '\0'));
  EXPECT_EQ(Contents(65536 - 512, 512), std::string(512, 'x'));
  EXPECT_EQ(Contents(2 * 65536, 512), std::string(512, 'x'));
  EXPECT_EQ(Allocated(), before - 65536);
  EXPECT_TRUE(driver_->Discard(4 * 65536, 65536).ok());
  EXPECT_EQ(Contents(5 * 65536, 512), std::string(512, 'x'));
  EXPECT_EQ(Allocated(), before - 2 * 65536);
}

TEST_F(FileBlocksTest, TakesMoreThanItsDepthAndMoreFromThoseThatAreOver) {
  constexpr size_t kOperations = 20 * kDepth;
  std::vector<std::string> data;
  std::vector<Operation> operations(kOperations);
  std::vector<Operation*> pointers;
  for (size_t i = 0; i < kOperations; ++i) {
    data.emplace_back(4096, static_cast<char>('a' + i % 26));
  }
  for (size_t i = 0; i < kOperations; ++i) {
    operations[i] = BlockDriver::Make(Operation::Kind::kWrite, i * 4096, 4096, &data[i]);
    pointers.push_back(&operations[i]);
  }
  driver_->Start(pointers);
  ASSERT_TRUE(driver_->Await());
  for (size_t i = 0; i < kOperations; ++i) {
    EXPECT_TRUE(operations[i].result.ok());
    EXPECT_EQ(Contents(static_cast<off_t>(i) * 4096, 4096), data[i]);
  }
  // Each end submits the next one.
  TimedNotification over;
  int left = 100;
  Operation chained = BlockDriver::Make(Operation::Kind::kWrite, 0, 4096, &data[1]);
  chained.done = [&](Operation& operation) {
    if (--left == 0) {
      over.Notify();
      return;
    }
    operation.offset += 4096;
    blocks_->Submit(operation);
    blocks_->Kick();
  };
  loop_->RunAndWait([&] {
    blocks_->Submit(chained);
    blocks_->Kick();
  });
  ASSERT_TRUE(over.WaitFor(absl::Minutes(1)));
  EXPECT_EQ(Contents(99 * 4096, 4096), data[1]);
}

TEST_F(FileBlocksTest, TellsDataFromHoles) {
  using Extent = std::pair<uint64_t, bool>;
  EXPECT_EQ(Extents(), (std::vector<Extent>{{kBytes, false}}));
  EXPECT_TRUE(driver_->Write(65536, std::string(8192, 'x')).ok());
  EXPECT_TRUE(driver_->Write(kBytes - 4096, std::string(4096, 'x')).ok());
  EXPECT_EQ(Extents(),
            (std::vector<Extent>{{65536, false}, {8192, true}, {kBytes - 4096 - 65536 - 8192, false}, {4096, true}}));
  EXPECT_EQ(Extents(65536 + 512).front(), Extent(8192 - 512, true));
  EXPECT_EQ(Extents(512).front(), Extent(65536 - 512, false));
  EXPECT_EQ(Extents(kBytes - 512), (std::vector<Extent>{{512, true}}));
  EXPECT_TRUE(driver_->Write(0, std::string(kBytes, 'x')).ok());
  EXPECT_EQ(Extents(), (std::vector<Extent>{{kBytes, true}}));
}

TEST_F(FileBlocksTest, GoesNoFurtherThanItsBytes) {
  // The file is larger than what is used of it.
  ASSERT_EQ(ftruncate(file_.get(), 2 * kBytes), 0);
  EXPECT_EQ(Extents(), (std::vector<std::pair<uint64_t, bool>>{{kBytes, false}}));
  const std::string data(2 * kBytes, 'x');
  ASSERT_EQ(pwrite(file_.get(), data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
  EXPECT_EQ(Extents(), (std::vector<std::pair<uint64_t, bool>>{{kBytes, true}}));
  ASSERT_EQ(fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes + 8192), 0);
  EXPECT_EQ(Extents(), (std::vector<std::pair<uint64_t, bool>>{{kBytes, false}}));
}

TEST_F(FileBlocksTest, ErrorsAreOfTheOperation) {
  auto reads = OpenFile(DescriptorPath(file_.get()), O_RDONLY);
  ASSERT_TRUE(reads.ok());
  auto blocks = MakeFileBlocks("the-file", *std::move(reads), kBytes, *loop_, kDepth);
  ASSERT_TRUE(blocks.ok());
  BlockDriver driver(*loop_, **blocks);
  EXPECT_EQ(driver.Write(8192, std::string(4096, 'x')).message(),
            "write 4096 bytes at 8192 of the-file: Bad file descriptor");
  EXPECT_EQ(driver.Zero(8192, 4096).message(), "zero 4096 bytes at 8192 of the-file: Bad file descriptor");
  EXPECT_EQ(driver.Read(0, 4), std::string(4, '\0'));
  // What was cut off is not read as anything.
  ASSERT_EQ(ftruncate(file_.get(), 4096), 0);
  EXPECT_EQ(
      driver.Run(BlockDriver::Make(Operation::Kind::kRead, 4096, 512, std::make_unique<std::string>(512, '?').get()))
          .message(),
      "read 512 bytes at 4096 of the-file: Input/output error");
}

// Whether the page cache has the page that is there: mincore(2) only looks, where a read that is not to wait
// (RWF_NOWAIT) reads ahead, and finds what it has read itself if the disk is fast.
bool IsCached(const Fd& file, off_t offset) {
  const auto page = Mapping::Create("the page", 4096, MAP_SHARED, file.get(), offset);
  EXPECT_TRUE(page.ok()) << page.status();
  unsigned char state = 0;
  EXPECT_TRUE(page.ok() && mincore(page->data(), page->size(), &state) == 0) << strerror(errno);
  return (state & 1) != 0;
}

class DirectBlocksTest : public FileBlocksTest {
 protected:
  static constexpr uint64_t kLarge = 64 << 10;

  void Make(Fd direct) {
    driver_.reset();
    auto blocks = MakeFileBlocks("the-file", *file_.Duplicate(), kBytes, *loop_, kDepth,
                                 std::make_shared<FlushRecord>(), std::move(direct));
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    blocks_ = *std::move(blocks);
    driver_ = std::make_unique<BlockDriver>(*loop_, *blocks_);
  }
  bool GoesPastThePageCache() const {
    struct statfs info = {};
    return fstatfs(file_.get(), &info) == 0 && info.f_type != TMPFS_MAGIC && info.f_type != OVERLAYFS_SUPER_MAGIC &&
           OpenDirect(file_).valid();
  }
  // As the mirror's buffer is.
  absl::Status WriteAligned(uint64_t offset, uint64_t bytes, char byte, uint64_t misaligned_by = 0) {
    FERRITE_CHECK(bytes + misaligned_by <= kMost);
    memset(memory_, byte, kMost);
    Operation operation = BlockDriver::Make(Operation::Kind::kWrite, offset, bytes);
    operation.data = memory_ + misaligned_by;
    return driver_->Run(operation);
  }

 private:
  static constexpr uint64_t kMost = 4 * kLarge;
  alignas(4096) uint8_t memory_[kMost];
};

TEST_F(DirectBlocksTest, LargeWritesGoPastThePageCacheAndSmallOnesDoNot) {
  if (!GoesPastThePageCache()) {
    GTEST_SKIP() << "what /tmp is on has no O_DIRECT of its own";
  }
  ASSERT_NO_FATAL_FAILURE(Make(OpenDirect(file_)));
  ASSERT_EQ(WriteAligned(0, kLarge, 'a').ToString(), "OK");
  EXPECT_FALSE(IsCached(file_, 0));
  ASSERT_EQ(WriteAligned(kLarge, 4096, 'b').ToString(), "OK");
  EXPECT_TRUE(IsCached(file_, kLarge));
  // Over what the page cache has, too.
  ASSERT_EQ(WriteAligned(0, 2 * kLarge, 'c').ToString(), "OK");
  EXPECT_EQ(Contents(0, 2 * kLarge), std::string(2 * kLarge, 'c'));
  // And back.
  ASSERT_EQ(WriteAligned(4096, 4096, 'd').ToString(), "OK");
  EXPECT_EQ(driver_->Read(0, 12288), std::string(4096, 'c') + std::string(4096, 'd') + std::string(4096, 'c'));
  EXPECT_TRUE(driver_->Flush().ok());
}

TEST_F(DirectBlocksTest, WhatIsNotAlignedIsWrittenAllTheSame) {
  ASSERT_NO_FATAL_FAILURE(Make(OpenDirect(file_)));
  EXPECT_EQ(WriteAligned(512, kLarge, 'a').ToString(), "OK");
  EXPECT_EQ(Contents(512, kLarge), std::string(kLarge, 'a'));
  EXPECT_EQ(WriteAligned(0, kLarge + 512, 'b').ToString(), "OK");
  EXPECT_EQ(Contents(0, kLarge + 512), std::string(kLarge + 512, 'b'));
  EXPECT_EQ(WriteAligned(0, kLarge, 'c', /*misaligned_by=*/1).ToString(), "OK");
  EXPECT_EQ(Contents(0, kLarge), std::string(kLarge, 'c'));
  // And those that are go on as before.
  EXPECT_EQ(WriteAligned(4 * kLarge, kLarge, 'd').ToString(), "OK");
  EXPECT_TRUE(!GoesPastThePageCache() || !IsCached(file_, 4 * kLarge));
}

TEST_F(DirectBlocksTest, AFileSystemThatRefusesIsAskedOnce) {
  // What answers every write with EINVAL.
  Fd refuses(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  ASSERT_TRUE(refuses.valid());
  ASSERT_NO_FATAL_FAILURE(Make(std::move(refuses)));
  for (const char byte : {'a', 'b'}) {
    ASSERT_EQ(WriteAligned(0, 4 * kLarge, byte).ToString(), "OK");
    EXPECT_EQ(Contents(0, 4 * kLarge), std::string(4 * kLarge, byte));
  }
}

TEST_F(DirectBlocksTest, ManyThatAreRefusedTogetherAreAllWritten) {
  Fd refuses(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  ASSERT_TRUE(refuses.valid());
  ASSERT_NO_FATAL_FAILURE(Make(std::move(refuses)));
  constexpr size_t kOperations = 2 * kDepth;
  alignas(4096) static uint8_t data[kLarge];
  memset(data, 'x', kLarge);
  std::vector<Operation> operations(kOperations);
  std::vector<Operation*> pointers;
  for (size_t i = 0; i < kOperations; ++i) {
    operations[i] = BlockDriver::Make(Operation::Kind::kWrite, i * kLarge, kLarge);
    operations[i].data = data;
    pointers.push_back(&operations[i]);
  }
  driver_->Start(pointers);
  ASSERT_TRUE(driver_->Await());
  for (const Operation& operation : operations) {
    EXPECT_TRUE(operation.result.ok()) << operation.result;
  }
  EXPECT_EQ(Contents(0, kOperations * kLarge), std::string(kOperations * kLarge, 'x'));
}

TEST_F(DirectBlocksTest, OtherErrorsAreTold) {
  auto reads = OpenFile(DescriptorPath(file_.get()), O_RDONLY);
  ASSERT_TRUE(reads.ok());
  ASSERT_NO_FATAL_FAILURE(Make(*std::move(reads)));
  EXPECT_EQ(WriteAligned(0, kLarge, 'a').message(), "write 65536 bytes at 0 of the-file: Bad file descriptor");
}

TEST_F(FileBlocksTest, AfterAFlushThatFailedAllFail) {
  const auto flushes = std::make_shared<FlushRecord>();
  auto blocks = MakeFileBlocks("the-file", *file_.Duplicate(), kBytes, *loop_, kDepth, flushes);
  ASSERT_TRUE(blocks.ok());
  BlockDriver driver(*loop_, **blocks);
  EXPECT_TRUE(driver.Flush().ok());
  EXPECT_TRUE(flushes->Note(absl::OkStatus()).ok());
  // That of somebody else.
  EXPECT_EQ(flushes->Note(absl::DataLossError("the first")).message(), "the first");
  EXPECT_EQ(driver.Flush().message(), "the first");
  EXPECT_EQ(driver.Flush().message(), "the first");
  EXPECT_EQ(flushes->Note(absl::OkStatus()).message(), "the first");
  EXPECT_EQ(flushes->Note(absl::DataLossError("the second")).message(), "the first");
  EXPECT_TRUE(driver.Write(0, std::string(512, 'x')).ok()) << "what is no flush goes on";
}

TEST_F(FileBlocksTest, ADescriptorThatDoesNotWaitIsMadeToWait) {
  auto fd = OpenFile(DescriptorPath(file_.get()), O_RDWR | O_NONBLOCK);
  ASSERT_TRUE(fd.ok());
  const Fd same = *fd->Duplicate();
  ASSERT_TRUE(MakeFileBlocks("the-file", *std::move(fd), kBytes, *loop_, kDepth).ok());
  EXPECT_EQ(fcntl(same.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(FileBlocksTest, WhatCannotHoldBlocksIsRefused) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const Fd other_end(pipe_fds[1]);
  EXPECT_EQ(MakeFileBlocks("a-pipe", Fd(pipe_fds[0]), kBytes, *loop_, kDepth).status().message(),
            "a-pipe is neither a regular file nor a block device");
  EXPECT_EQ(MakeFileBlocks("the-file", *file_.Duplicate(), 1000, *loop_, kDepth).status().message(),
            "the-file has 1000 bytes, not a multiple of its block size, 512");
  EXPECT_FALSE(MakeFileBlocks("the-file", *file_.Duplicate(), 0, *loop_, kDepth).ok());
}

}  // namespace
}  // namespace ferrite
