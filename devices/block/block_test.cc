#include "devices/block/block.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "capnp/message.h"
#include "devices/block/block_fixture.h"
#include "tests/fakes/captured_log.h"
#include "tests/fakes/lost_page.h"
#include "tests/fakes/queue_driver.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite {
namespace {

TEST_F(BlockTest, OffersItsFeaturesAndConfiguration) {
  Start();
  EXPECT_EQ(harness_.transport().name(), "virtio-blk:root");
  const auto config = harness_.driver();
  EXPECT_EQ(config.ReadConfig<uint64_t>(0), kSectors);
  EXPECT_EQ(config.ReadConfig<uint32_t>(offsetof(BlockConfig, seg_max)), kBlockQueueSize - 2u);
  // Linux takes a limit of less than a page for a mistake of the device.
  EXPECT_GE(config.ReadConfig<uint32_t>(offsetof(BlockConfig, size_max)), kPageBytes);
  EXPECT_EQ(config.ReadConfig<uint32_t>(offsetof(BlockConfig, blk_size)), 512u);
  EXPECT_EQ(config.ReadConfig<uint8_t>(offsetof(BlockConfig, writeback)), 1);
  EXPECT_EQ(config.ReadConfig<uint8_t>(offsetof(BlockConfig, write_zeroes_may_unmap)), 1);
  EXPECT_GT(config.ReadConfig<uint32_t>(offsetof(BlockConfig, max_discard_sectors)), 0u);
  // Across and past the end.
  EXPECT_EQ(config.ReadConfig<uint64_t>(56), 1u);
  EXPECT_EQ(config.ReadConfig<uint32_t>(0x800), 0u);
  // Only writeback may be written.
  config.WriteConfig<uint64_t>(0, 1);
  config.WriteConfig<uint32_t>(0x800, 1);
  EXPECT_EQ(config.ReadConfig<uint64_t>(0), kSectors);
  EXPECT_EQ(config.OfferedFeatures() & kBlockFeatureReadOnly, 0u);
}

TEST_F(BlockTest, ReadsIntoSegmentsAndCountsThePagesAsWritten) {
  Start();
  GuestAddress first;
  GuestAddress second;
  Submit(Request(kBlockRead, 7).Writable(100, &first).Writable(1024 - 100, &second));
  ASSERT_EQ(io_->started().size(), 1u);
  EXPECT_EQ(io_->started()[0]->offset, 7 * kSectorBytes);
  PageBitmap& written = harness_.memory().regions()[0]->own_writes();
  written.ClearAll();
  io_->Finish(0);
  uint32_t length = 0;
  EXPECT_EQ(TakeStatus(&length), kBlockStatusOk);
  EXPECT_EQ(length, 1025u);
  EXPECT_EQ(GuestText(first, 100) + GuestText(second, 924), ImageFile::Pattern(7, 2));
  EXPECT_TRUE(written.Test(first.value() / kPageBytes));
  EXPECT_TRUE(written.Test(second.value() / kPageBytes));
  EXPECT_TRUE(written.Test(status_.value() / kPageBytes));
  EXPECT_GT(harness_.interrupt().count(), 0u);
}

TEST_F(BlockTest, AFailedReadCountsAsWrittenToo) {
  Start();
  GuestAddress data;
  Submit(Request(kBlockRead, 0).Writable(4096, &data));
  PageBitmap& written = harness_.memory().regions()[0]->own_writes();
  written.ClearAll();
  io_->Fail(0, EIO);
  uint32_t length = 1;
  EXPECT_EQ(TakeStatus(&length), kBlockStatusIoError);
  EXPECT_EQ(length, 0u);
  EXPECT_TRUE(written.Test(data.value() / kPageBytes));
}

TEST_F(BlockTest, WritesFromSegmentsWhateverTheFraming) {
  Start();
  // §2.7.4.2: nothing may depend on where descriptors end. The header in two parts, the data behind it in the second.
  const std::string data(1536, 'w');
  const BlockRequestHeader header = {.type = kBlockWrite, .sector = 100};
  std::string stream(reinterpret_cast<const char*>(&header), sizeof(header));
  stream += data;
  for (const size_t cut : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{600}}) {
    file_.Write(100, ImageFile::Pattern(100, 3));
    EXPECT_EQ(Run(queue().Chain().Readable(Bytes(stream.substr(0, cut))).Readable(Bytes(stream.substr(cut)))),
              kBlockStatusOk);
    EXPECT_EQ(file_.Read(100, 3), data) << cut;
    EXPECT_EQ(file_.Read(99, 1), ImageFile::Pattern(99, 1));
    EXPECT_EQ(file_.Read(103, 1), ImageFile::Pattern(103, 1));
  }
}

TEST_F(BlockTest, TheStatusMayShareASegmentWithTheData) {
  Start();
  GuestAddress where;
  Request(kBlockRead, 3).Writable(513, &where).Submit();
  harness_.Kick(0);
  io_->Finish(0);
  EXPECT_EQ(queue().TakeUsed()->written, 513u);
  EXPECT_EQ(GuestText(where, 512), ImageFile::Pattern(3, 1));
  EXPECT_EQ(GuestText(where + 512, 1), std::string(1, '\0'));
}

// Virtio 1.2 §2.7.8.2: the used length is no more than what was written from the start of the buffers.
TEST_F(BlockTest, TheUsedLengthCountsWhatWasWrittenAndNoMore) {
  Start();
  const std::string sector(512, 'x');
  const BlockRange range = {.sector = 8, .sectors = 8};
  uint32_t written = 0;
  EXPECT_EQ(Run(Request(kBlockRead, 0).Writable(1024), &written), kBlockStatusOk);
  EXPECT_EQ(written, 1025u);
  EXPECT_EQ(Run(Request(kBlockGetId, 0).Writable(20), &written), kBlockStatusOk);
  EXPECT_EQ(written, 21u);
  EXPECT_EQ(Run(Request(kBlockWrite, 0).Readable(Bytes(sector)), &written), kBlockStatusOk);
  EXPECT_EQ(written, 1u);
  EXPECT_EQ(Run(Request(kBlockFlush, 0), &written), kBlockStatusOk);
  EXPECT_EQ(written, 1u);
  // With room before the status that the request does not fill.
  EXPECT_EQ(Run(Request(kBlockGetId, 0).Writable(100), &written), kBlockStatusOk);
  EXPECT_EQ(written, 20u);
  EXPECT_EQ(Run(Request(kBlockWrite, 0).Readable(Bytes(sector)).Writable(100), &written), kBlockStatusOk);
  EXPECT_EQ(written, 0u);
  EXPECT_EQ(Run(Request(kBlockFlush, 0).Writable(100), &written), kBlockStatusOk);
  EXPECT_EQ(written, 0u);
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).ReadableObject(range).Writable(100), &written), kBlockStatusOk);
  EXPECT_EQ(written, 0u);
  // And what failed.
  EXPECT_EQ(Run(Request(kBlockRead, kSectors).Writable(512), &written), kBlockStatusIoError);
  EXPECT_EQ(written, 0u);
  EXPECT_EQ(Run(Request(kBlockWrite, kSectors).Readable(Bytes(sector)), &written), kBlockStatusIoError);
  EXPECT_EQ(written, 1u);
}

TEST_F(BlockTest, ContinuesShortReadsAndWrites) {
  Start();
  GuestAddress data;
  Submit(Request(kBlockRead, 10).Writable(700, &data).Writable(324));
  io_->Finish(0, 99);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(GuestText(data, 700), ImageFile::Pattern(10, 2).substr(0, 700));
  Submit(Request(kBlockWrite, 10).Readable(Bytes(std::string(1024, 's'))));
  io_->Finish(0, 77);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(file_.Read(10, 2), std::string(1024, 's'));
}

TEST_F(BlockTest, TellsItsId) {
  Start();
  GuestAddress id;
  EXPECT_EQ(Run(Request(kBlockGetId, 0).Writable(20, &id)), kBlockStatusOk);
  EXPECT_EQ(GuestText(id, 20), std::string("root").append(16, '\0'));
  EXPECT_EQ(Run(Request(kBlockGetId, 0).Writable(19, &id)), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockGetId, 0)), kBlockStatusIoError);
}

TEST_F(BlockTest, RefusesWhatIsNotInsideOfTheDisk) {
  Start();
  const std::string sector(512, 'x');
  for (const uint64_t start : {kSectors, kSectors + 1, uint64_t{1} << 55, ~uint64_t{0}, ~uint64_t{0} / 512}) {
    EXPECT_EQ(Run(Request(kBlockRead, start).Writable(512)), kBlockStatusIoError) << start;
    EXPECT_EQ(Run(Request(kBlockWrite, start).Readable(Bytes(sector))), kBlockStatusIoError) << start;
    const BlockRange range = {.sector = start, .sectors = 1};
    EXPECT_EQ(Run(Request(kBlockDiscard, 0).ReadableObject(range)), kBlockStatusIoError) << start;
    EXPECT_EQ(Run(Request(kBlockWriteZeroes, 0).ReadableObject(range)), kBlockStatusIoError) << start;
  }
  EXPECT_EQ(Run(Request(kBlockRead, kSectors - 1).Writable(1024)), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockRead, kSectors - 1).Writable(512)), kBlockStatusOk);
  EXPECT_FALSE(harness_.driver().needs_reset());
}

TEST_F(BlockTest, RefusesBrokenRequestsInTheirStatus) {
  Start();
  EXPECT_EQ(Run(Request(kBlockRead, 0).Writable(511)), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockWrite, 0).Readable(Bytes(std::string(513, 'x')))), kBlockStatusIoError);
  EXPECT_EQ(file_.Read(0, 1), ImageFile::Pattern(0, 1));
  EXPECT_EQ(Run(Request(kBlockRead, 0)), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockWrite, 0)), kBlockStatusOk);
  EXPECT_EQ(Run(queue().Chain().Readable(Bytes(std::string(15, '\0'))).Writable(512)), kBlockStatusIoError);
  EXPECT_EQ(Run(queue().Chain()), kBlockStatusIoError);
  for (const uint32_t type : {2u, 3u, 5u, 7u, 9u, 10u, 12u, 14u, 0xffff'ffffu}) {
    EXPECT_EQ(Run(Request(type, 0).Writable(512)), kBlockStatusUnsupported) << type;
  }
  EXPECT_FALSE(harness_.driver().needs_reset());
}

TEST_F(BlockTest, ARequestWithoutAStatusByteNeedsAReset) {
  Start();
  GuestAddress data;
  Submit(Request(kBlockRead, 1).Writable(512, &data));
  queue().Chain().ReadableObject(BlockRequestHeader{.type = kBlockFlush}).Submit();
  harness_.Kick(0);
  EXPECT_TRUE(harness_.driver().needs_reset());
  EXPECT_EQ(queue().TakeUsed()->written, 0u);
  // What was in flight is completed, and after a reset all is well again.
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  harness_.Start(harness_.driver().OfferedFeatures());
  EXPECT_EQ(Run(Request(kBlockRead, 1).Writable(512, &data)), kBlockStatusOk);
}

TEST_F(BlockTest, DiscardsAndWritesZeroes) {
  Start();
  const BlockRange ranges[] = {
      {.sector = 16, .sectors = 8}, {.sector = 5, .sectors = 0}, {.sector = 64, .sectors = 16}};
  auto discard = Request(kBlockDiscard, 0);
  for (const BlockRange& range : ranges) {
    discard.ReadableObject(range);
  }
  Submit(std::move(discard));
  // One after the other; the empty one is left out.
  ASSERT_EQ(io_->started().size(), 1u);
  EXPECT_EQ(io_->started()[0]->kind, IoRequest::Kind::kDiscard);
  EXPECT_EQ(io_->started()[0]->offset, 16 * kSectorBytes);
  io_->Finish(0);
  ASSERT_EQ(io_->started().size(), 1u);
  EXPECT_EQ(io_->started()[0]->offset, 64 * kSectorBytes);
  EXPECT_EQ(io_->started()[0]->bytes, 16 * kSectorBytes);
  EXPECT_EQ(StatusByte(), kUntouched);
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(file_.Read(24, 40), ImageFile::Pattern(24, 40));

  for (const uint32_t flags : {0u, kBlockRangeUnmap}) {
    const BlockRange range = {.sector = 200 + 8 * flags, .sectors = 3, .flags = flags};
    EXPECT_EQ(Run(Request(kBlockWriteZeroes, 0).ReadableObject(range)), kBlockStatusOk);
    EXPECT_EQ(file_.Read(range.sector, 3), std::string(3 * 512, '\0'));
    EXPECT_EQ(file_.Read(range.sector - 1, 1), ImageFile::Pattern(range.sector - 1, 1));
    EXPECT_EQ(file_.Read(range.sector + 3, 1), ImageFile::Pattern(range.sector + 3, 1));
  }
}

TEST_F(BlockTest, ChecksEveryRangeBeforeTheFirstIsDone) {
  Start();
  const BlockRange good = {.sector = 8, .sectors = 8};
  const auto run = [&](uint32_t type, const BlockRange& bad) {
    return Run(Request(type, 0).ReadableObject(good).ReadableObject(bad));
  };
  EXPECT_EQ(run(kBlockDiscard, {.sector = kSectors, .sectors = 1}), kBlockStatusIoError);
  EXPECT_EQ(run(kBlockDiscard, {.sector = 0, .sectors = 0xffff'ffff}), kBlockStatusIoError);
  // §5.2.6.2: unknown flags, and unmap for a discard, are unsupported.
  EXPECT_EQ(run(kBlockDiscard, {.sector = 0, .sectors = 1, .flags = kBlockRangeUnmap}), kBlockStatusUnsupported);
  EXPECT_EQ(run(kBlockDiscard, {.sector = 0, .sectors = 1, .flags = 2}), kBlockStatusUnsupported);
  EXPECT_EQ(Run(Request(kBlockWriteZeroes, 0).ReadableObject(BlockRange{.sectors = 1, .flags = 0x8000'0000})),
            kBlockStatusUnsupported);
  // More ranges than max_write_zeroes_seg, no range, and part of one.
  EXPECT_EQ(run(kBlockWriteZeroes, good), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockWriteZeroes, 0)), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).Readable(Bytes(std::string(15, '\0')))), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).Readable(Bytes(std::string(17 * 16, '\0')))), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).Readable(Bytes(std::string(1 << 20, '\0')))), kBlockStatusIoError);
  EXPECT_EQ(file_.Read(0, 32), ImageFile::Pattern(0, 32));
}

TEST_F(BlockTest, FileErrorsAreIoErrors) {
  Start();
  for (const int error : {EIO, ENOSPC, EROFS}) {
    Submit(Request(kBlockWrite, 0).Readable(Bytes(std::string(512, 'x'))));
    io_->Fail(0, error);
    EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
    Submit(Request(kBlockFlush, 0));
    io_->Fail(0, error);
    EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  }
  // Nothing is left of it.
  EXPECT_EQ(Run(Request(kBlockFlush, 0)), kBlockStatusOk);
  EXPECT_FALSE(harness_.driver().needs_reset());
}

TEST_F(BlockTest, MemoryThatCannotBeHadIsNotBlamedOnTheImage) {
  Start();
  const CapturedLog log;
  Submit(Request(kBlockWrite, 0).Readable(Bytes(std::string(512, 'x'))));
  io_->Fail(0, EFAULT);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  EXPECT_TRUE(absl::StrContains(log.text(), "Bad address; a page of the guest's memory cannot be had on this host"))
      << log.text();
}

// A page that the host lost (R9), as one that came so on a kernel that cannot mark it.
class LostPageBlockTest : public BlockTest {
 protected:
  void Hide(GuestAddress page) { ASSERT_EQ(harness_.memory().regions()[0]->HideLost(page.value()).ToString(), "OK"); }
  static constexpr GuestAddress kLost{0x900000};
};

TEST_F(LostPageBlockTest, HeaderListIdAndStatusInOneEndTheirRequestsAlone) {
  Start();
  ASSERT_NO_FATAL_FAILURE(Hide(kLost));
  EXPECT_EQ(Run(queue().Chain().ReadableAt(kLost, sizeof(BlockRequestHeader))), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).ReadableAt(kLost, sizeof(BlockRange))), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockGetId, 0).WritableAt(kLost, kBlockIdBytes)), kBlockStatusIoError);
  Request(kBlockFlush, 0).WritableAt(kLost, 1).Submit();
  harness_.Kick(0);
  io_->Finish(0);
  EXPECT_TRUE(queue().TakeUsed().has_value()) << "it is over, though nobody can read how it ended";
  EXPECT_EQ(Run(Request(kBlockRead, 0).Writable(512)), kBlockStatusOk);
  EXPECT_FALSE(harness_.driver().needs_reset());
}

TEST_F(LostPageBlockTest, TransferThatMeetsOneNamesAndListsIt) {
  if (const absl::Status status = PageLoser::Supported(); !status.ok()) {
    GTEST_SKIP() << status;
  }
  Start();
  constexpr uint64_t kPages = 4;
  const GuestAddress page = kLost + kPageBytes;
  ASSERT_TRUE(harness_.memory().Fill(kLost, 1, kPages * kPageBytes).ok());
  PageLoser loser;
  ASSERT_EQ(loser.Lose(*harness_.memory().regions()[0], page.value()).ToString(), "OK");
  const CapturedLog log;
  Submit(Request(kBlockWrite, 0).ReadableAt(kLost, kPages * kPageBytes));
  EXPECT_TRUE(harness_.memory().LostPages().empty()) << "nobody has met it";
  io_->Fail(0, EFAULT);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  EXPECT_TRUE(absl::StrContains(log.text(), "Bad address; the host lost a page of the guest's memory")) << log.text();
  EXPECT_EQ(harness_.memory().LostPages(), std::vector<GuestAddress>{page});
  EXPECT_FALSE(harness_.driver().needs_reset());
}

TEST_F(BlockTest, AReadOnlyDiskIsNotWritten) {
  Start(0, /*read_only=*/true);
  const uint64_t features = harness_.driver().OfferedFeatures();
  EXPECT_NE(features & kBlockFeatureReadOnly, 0u);
  EXPECT_EQ(features & (kBlockFeatureDiscard | kBlockFeatureWriteZeroes), 0u);
  const BlockRange range = {.sector = 0, .sectors = 1};
  EXPECT_EQ(Run(Request(kBlockWrite, 0).Readable(Bytes(std::string(512, 'x')))), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).ReadableObject(range)), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockWriteZeroes, 0).ReadableObject(range)), kBlockStatusIoError);
  EXPECT_EQ(file_.Read(0, 1), ImageFile::Pattern(0, 1));
  EXPECT_EQ(Run(Request(kBlockRead, 0).Writable(512)), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockFlush, 0)), kBlockStatusOk);
}

TEST_F(BlockTest, WriteThroughFlushesBeforeItCompletes) {
  Start(kBlockFeatureFlush | kBlockFeatureConfigWriteback);
  EXPECT_EQ(harness_.driver().ReadConfig<uint8_t>(offsetof(BlockConfig, writeback)), 0);
  const BlockRange range = {.sector = 0, .sectors = 1};
  for (const bool zeroes : {false, true}) {
    Submit(zeroes ? Request(kBlockWriteZeroes, 0).ReadableObject(range)
                  : Request(kBlockWrite, 0).Readable(Bytes(std::string(512, 'x'))));
    ASSERT_EQ(io_->started().size(), 1u);
    io_->Finish(0);
    EXPECT_FALSE(queue().HasUsed());
    ASSERT_EQ(io_->started().size(), 1u);
    EXPECT_EQ(io_->started()[0]->kind, IoRequest::Kind::kFlush);
    io_->Finish(0);
    EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  }
  // A write that could not be made durable has failed.
  Submit(Request(kBlockWrite, 0).Readable(Bytes(std::string(512, 'x'))));
  io_->Finish(0);
  io_->Fail(0, EIO);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
}

TEST_F(BlockTest, TheDriverTurnsWritebackOffAndOn) {
  Start();
  constexpr uint64_t kWriteback = offsetof(BlockConfig, writeback);
  const auto steps_of_a_write = [this] {
    Submit(Request(kBlockWrite, 0).Readable(Bytes(std::string(512, 'x'))));
    int steps = 0;
    for (; !io_->started().empty(); ++steps) {
      io_->Finish(0);
    }
    EXPECT_EQ(TakeStatus(), kBlockStatusOk);
    return steps;
  };
  EXPECT_EQ(steps_of_a_write(), 1);
  harness_.driver().WriteConfig<uint8_t>(kWriteback, 0);
  EXPECT_EQ(harness_.driver().ReadConfig<uint8_t>(kWriteback), 0);
  EXPECT_EQ(steps_of_a_write(), 2);
  harness_.driver().WriteConfig<uint8_t>(kWriteback, 1);
  EXPECT_EQ(steps_of_a_write(), 1);

  // Without the feature it is not to be written; with FLUSH alone the cache is on.
  harness_.Start(harness_.driver().OfferedFeatures() & ~kBlockFeatureConfigWriteback);
  harness_.driver().WriteConfig<uint8_t>(kWriteback, 0);
  EXPECT_EQ(steps_of_a_write(), 1);
}

TEST_F(BlockTest, CompletesInAnyOrder) {
  Start();
  constexpr size_t kRequests = 10;
  std::vector<uint16_t> heads;
  std::vector<GuestAddress> data(kRequests);
  for (size_t i = 0; i < kRequests; ++i) {
    heads.push_back(Request(kBlockRead, 10 * i).Writable(512, &data[i]).Writable(1).Submit());
  }
  harness_.Kick(0);
  ASSERT_EQ(io_->started().size(), kRequests);
  std::vector<uint16_t> left = heads;
  for (const size_t index : {9u, 0u, 4u, 4u, 3u, 0u, 2u, 2u, 1u, 0u}) {
    io_->Finish(index);
    const auto used = queue().TakeUsed();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(*used, (QueueDriver::Used{left[index], 513}));
    left.erase(left.begin() + static_cast<ptrdiff_t>(index));
  }
  for (size_t i = 0; i < kRequests; ++i) {
    EXPECT_EQ(GuestText(data[i], 512), ImageFile::Pattern(10 * i, 1));
  }
}

TEST_F(BlockTest, IsSavedAndLoaded) {
  Start();
  harness_.driver().WriteConfig<uint8_t>(offsetof(BlockConfig, writeback), 0);
  harness_.transport().Quiesce();
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  harness_.transport().Save(state);
  EXPECT_EQ(state.getVirtioMmio().getBlock().getCapacitySectors(), kSectors);
  harness_.transport().Reset();
  EXPECT_EQ(harness_.driver().ReadConfig<uint8_t>(offsetof(BlockConfig, writeback)), 1);
  ASSERT_TRUE(harness_.transport().CheckState(state.asReader()).ok());
  harness_.transport().LoadState(state.asReader());
  EXPECT_EQ(harness_.driver().ReadConfig<uint8_t>(offsetof(BlockConfig, writeback)), 0);
  harness_.transport().Resume();
  EXPECT_EQ(Run(Request(kBlockRead, 0).Writable(512)), kBlockStatusOk);
  harness_.transport().Quiesce();

  // R7: refused by name, and nothing is changed.
  state.getVirtioMmio().getBlock().setCapacitySectors(kSectors - 1);
  const absl::Status refused = harness_.transport().CheckState(state.asReader());
  EXPECT_EQ(refused.message(), "virtio-blk:root: the state is of a disk of 2047 sectors, and this one has 2048");
  state.getVirtioMmio().setRng();
  EXPECT_TRUE(absl::StrContains(harness_.transport().CheckState(state.asReader()).message(), "virtio-blk:root"));
}

// A pause waits for what is in flight: that is little, and the rest is there afterwards.
class CrowdedBlockTest : public BlockTest {
 protected:
  static constexpr uint16_t kFit = kMaxBlockBytesInFlight / kMaxBlockTransferBytes;

  void SetUp() override {
    file_.Grow(uint64_t{64} << 20);
    Start(virtio::kFeatureEventIndex);
  }
  void SubmitReads(uint16_t count) {
    const GuestAddress buffer(uint64_t{8} << 20);
    for (uint16_t i = 0; i < count; ++i) {
      Request(kBlockRead, 0).WritableAt(buffer, kMaxBlockTransferBytes).Writable(1).Submit();
    }
  }
  void FinishStarted() {
    while (!io_->started().empty()) {
      io_->Finish(0);
    }
  }
};

TEST_F(CrowdedBlockTest, WhatIsTooMuchWaitsInTheQueue) {
  SubmitReads(kFit + 3);
  harness_.Kick(0);
  EXPECT_EQ(io_->started().size(), kFit);
  // The device looks by itself when there is room, and not in a loop before.
  EXPECT_FALSE(queue().NeedsKick());
  io_->Finish(1);
  io_->Finish(1);
  EXPECT_EQ(io_->started().size(), kFit - 2u);
  harness_.loop().RunReady();
  EXPECT_EQ(io_->started().size(), kFit);
  FinishStarted();
  harness_.loop().RunReady();
  EXPECT_EQ(io_->started().size(), 1u);
  EXPECT_TRUE(queue().NeedsKick());
  FinishStarted();
  EXPECT_EQ(queue().used_index(), kFit + 3);
}

TEST_F(CrowdedBlockTest, WhatWaitsOutlastsAPauseAndASave) {
  SubmitReads(kFit + 3);
  harness_.Kick(0);
  FinishStarted();
  harness_.transport().Quiesce();
  harness_.loop().RunReady();
  EXPECT_TRUE(io_->started().empty());
  EXPECT_EQ(queue().used_index(), kFit);

  ASSERT_NO_FATAL_FAILURE(SaveResetAndLoad());
  harness_.transport().Resume();
  harness_.loop().RunReady();
  EXPECT_EQ(io_->started().size(), 3u);
  FinishStarted();
  EXPECT_EQ(queue().used_index(), kFit + 3);
  EXPECT_TRUE(queue().NeedsKick());
}

TEST_F(CrowdedBlockTest, ZeroesAndDiscardsCountToo) {
  const BlockRange zeroes = {.sector = 0, .sectors = (16 << 20) / kSectorBytes};
  const BlockRange discard = {.sector = 0, .sectors = (64 << 20) / kSectorBytes};
  for (int i = 0; i < 2; ++i) {
    Request(kBlockWriteZeroes, 0).ReadableObject(zeroes).Writable(1).Submit();
  }
  for (int i = 0; i < 18; ++i) {
    Request(kBlockDiscard, 0).ReadableObject(discard).Writable(1).Submit();
  }
  harness_.Kick(0);
  EXPECT_EQ(io_->started().size(), 1u);
  io_->Fail(0, EIO);
  harness_.loop().RunReady();
  EXPECT_EQ(io_->started().size(), 1u);
  io_->Fail(0, EIO);
  harness_.loop().RunReady();
  EXPECT_EQ(io_->started().size(), 16u);
  while (!io_->started().empty()) {
    io_->Fail(0, EIO);
    harness_.loop().RunReady();
  }
  EXPECT_EQ(queue().used_index(), 20);
}

TEST_F(LargeBlockTest, ReadsInPieces) {
  written_pages().ClearAll();
  Submit(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes));
  for (const uint64_t offset : {uint32_t{0}, kPiece}) {
    ASSERT_EQ(io_->started().size(), 1u);
    EXPECT_EQ(io_->started()[0]->offset, offset);
    EXPECT_EQ(BytesOf(*io_->started()[0]), kPiece);
    EXPECT_FALSE(queue().HasUsed());
    io_->Finish(0);
  }
  uint32_t length = 0;
  EXPECT_EQ(TakeStatus(&length), kBlockStatusOk);
  EXPECT_EQ(length, kBytes + 1);
  ExpectTheFileInTheBuffer();
}

TEST_F(LargeBlockTest, WritesInPiecesWhateverTheFraming) {
  ASSERT_TRUE(harness_.memory().Fill(kBuffer, 0x77, kBytes).ok());
  ASSERT_TRUE(harness_.memory().Fill(kBuffer + (kPiece - 256), 0x78, 512).ok());
  constexpr uint32_t kCut = 3'000'001;
  constexpr uint32_t kAll = kBytes - 512;
  EXPECT_EQ(Run(Request(kBlockWrite, 1)
                    .ReadableAt(kBuffer, kCut)
                    .ReadableAt(kBuffer + kCut, kCut)
                    .ReadableAt(kBuffer + 2 * kCut, kAll - 2 * kCut)),
            kBlockStatusOk);
  EXPECT_TRUE(file_.Read(1, kAll / kSectorBytes) == GuestText(kBuffer, kAll));
  EXPECT_EQ(file_.Read(0, 1), ImageFile::Pattern(0, 1));
  EXPECT_EQ(file_.Read(kBytes / kSectorBytes, 1), std::string(512, '\0'));
}

TEST_F(LargeBlockTest, WriteThroughFlushesAfterTheLastPiece) {
  harness_.Start(virtio::kFeatureVersion1);
  Submit(Request(kBlockWrite, 0).ReadableAt(kBuffer, kBytes));
  for (const auto kind : {IoRequest::Kind::kWrite, IoRequest::Kind::kWrite, IoRequest::Kind::kFlush}) {
    ASSERT_EQ(io_->started().size(), 1u);
    EXPECT_EQ(io_->started()[0]->kind, kind);
    EXPECT_FALSE(queue().HasUsed());
    io_->Finish(0);
  }
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
}

TEST_F(LargeBlockTest, APieceThatFailsEndsIt) {
  Submit(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes));
  io_->Fail(0, EIO);
  uint32_t length = 1;
  EXPECT_EQ(TakeStatus(&length), kBlockStatusIoError);
  EXPECT_EQ(length, 0u);
  EXPECT_EQ(Run(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes)), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockRead, 128 * 1024 - kBytes / kSectorBytes + 1).WritableAt(kBuffer, kBytes)),
            kBlockStatusIoError)
      << "past the end";
}

TEST_F(LargeBlockTest, WhatComesAfterItWaitsUntilItsLastPiece) {
  Request(kBlockRead, 0).Writable(512).Writable(1).Submit();
  const uint16_t large = Request(kBlockRead, 0).WritableAt(kBuffer, kBytes).Writable(1).Submit();
  Request(kBlockRead, 0).Writable(512).Writable(1).Submit();
  harness_.Kick(0);
  ASSERT_EQ(io_->started().size(), 2u);
  EXPECT_FALSE(queue().NeedsKick());
  io_->Finish(1);
  EXPECT_EQ(io_->started().size(), 2u);
  harness_.loop().RunReady();
  ASSERT_EQ(io_->started().size(), 3u);
  io_->Finish(1);
  EXPECT_EQ(queue().TakeUsed()->head, large);
  io_->Finish(1);
  io_->Finish(0);
  EXPECT_EQ(queue().used_index(), 3);
}

// A pause waits for one piece, and the request is in the queue again.
TEST_F(LargeBlockTest, APausePutsItBackIntoTheQueue) {
  written_pages().ClearAll();
  Submit(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes));
  PauseAfterThePiece();
  EXPECT_TRUE(io_->started().empty());
  EXPECT_FALSE(queue().HasUsed());
  EXPECT_TRUE(written_pages().Test(kBuffer.value() / kPageBytes));
  // Where the machine went, it is done anew.
  ASSERT_NO_FATAL_FAILURE(SaveResetAndLoad());
  harness_.transport().Resume();
  harness_.loop().RunReady();
  ASSERT_EQ(io_->started().size(), 1u);
  EXPECT_EQ(io_->started()[0]->offset, 0u);
  io_->Finish(0);
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(queue().used_index(), 1);
  ExpectTheFileInTheBuffer();
}

// However often the machine pauses, a request that takes longer than it runs in between is done some time.
TEST_F(LargeBlockTest, PausesDoNotStarveIt) {
  constexpr uint32_t kTimes = 4;
  for (const uint32_t type : {kBlockRead, kBlockWrite}) {
    SCOPED_TRACE(type);
    const bool read = type == kBlockRead;
    ASSERT_TRUE(harness_.memory().Fill(kBuffer, 0x77, kBytes).ok());
    written_pages().ClearAll();
    auto chain = Request(type, 0);
    for (uint32_t i = 0; i < kTimes; ++i) {
      read ? chain.WritableAt(kBuffer, kBytes) : chain.ReadableAt(kBuffer, kBytes);
    }
    Submit(std::move(chain));
    for (uint64_t offset = 0; offset < uint64_t{kTimes} * kBytes; offset += kPiece) {
      ASSERT_EQ(io_->started().size(), 1u);
      ASSERT_EQ(io_->started()[0]->offset, offset);
      ASSERT_EQ(BytesOf(*io_->started()[0]), kPiece);
      PauseAfterThePiece();
      harness_.transport().Resume();
      harness_.loop().RunReady();
    }
    uint32_t length = 0;
    EXPECT_EQ(TakeStatus(&length), kBlockStatusOk);
    EXPECT_EQ(length, read ? kTimes * kBytes + 1 : 1);
    EXPECT_TRUE(GuestText(kBuffer, kBytes) == file_.Read((kTimes - 1) * kBytes / kSectorBytes, kBytes / kSectorBytes));
    EXPECT_EQ(written_pages().Test((kBuffer + (kBytes - 1)).value() / kPageBytes), read);
  }
}

// Only the request that was put back goes on where it was: not the one after it, nor what a driver made of it.
TEST_F(LargeBlockTest, WhatIsNotTheSameBeginsAtItsStart) {
  const GuestAddress header{uint64_t{7} << 20};
  const BlockRequestHeader first = {.type = kBlockRead};
  const BlockRequestHeader second = {.type = kBlockRead, .sector = 8};
  WriteHeader(header, first);
  Submit(harness_.queue(0).Chain().ReadableAt(header, sizeof(first)).WritableAt(kBuffer, kBytes));
  PauseAfterThePiece();
  WriteHeader(header, second);
  harness_.transport().Resume();
  harness_.loop().RunReady();
  ASSERT_EQ(io_->started().size(), 1u);
  EXPECT_EQ(io_->started()[0]->offset, second.sector * kSectorBytes);
  io_->Finish(0);
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes)), kBlockStatusOk);
  ExpectTheFileInTheBuffer();
}

// State of a driver that was never offered size_max.
TEST_F(BlockTest, LoadsTheStateOfADriverWithoutSizeMax) {
  Start(kBlockFeatureSizeMax);
  harness_.transport().Quiesce();
  ASSERT_NO_FATAL_FAILURE(SaveResetAndLoad());
  harness_.transport().Resume();
  EXPECT_EQ(Run(Request(kBlockRead, 0).Writable(512)), kBlockStatusOk);
}

class HostileBlockTest : public BlockTest, public testing::WithParamInterface<HostileChain> {};

TEST_P(HostileBlockTest, NeedsAResetAndLivesOn) {
  Start(GetParam().indirect ? 0 : virtio::kFeatureIndirectDescriptors);
  GetParam().submit(queue());
  harness_.Kick(0);
  EXPECT_TRUE(harness_.driver().needs_reset());
  EXPECT_TRUE(io_->started().empty());
  harness_.Start(harness_.driver().OfferedFeatures());
  EXPECT_EQ(Run(Request(kBlockRead, 5).Writable(512)), kBlockStatusOk);
}

INSTANTIATE_TEST_SUITE_P(Chains, HostileBlockTest, testing::ValuesIn(HostileChains()),
                         [](const auto& info) { return info.param.name; });

// The device with real I/O on a real event loop.
class BlockEngineTest : public testing::TestWithParam<AsyncIo::Engine> {
 protected:
  void SetUp() override {
    auto loop = EventLoop::Create("block-test");
    ASSERT_TRUE(loop.ok());
    loop_ = *std::move(loop);
    auto io = AsyncIo::Create(*loop_, 16, GetParam());
    if (!io.ok() && GetParam() == AsyncIo::Engine::kIoUring) {
      GTEST_SKIP() << io.status();
    }
    ASSERT_TRUE(io.ok()) << io.status();
    harness_ = std::make_unique<VirtioHarness>(uint64_t{64} << 20, loop_.get());
    harness_->Attach(std::make_unique<Block>("root", file_.Open(), *std::move(io)));
    harness_->Start(harness_->driver().OfferedFeatures(), kBlockQueueSize);
  }

  // Submits a request for `sectors` at `sector`: a write of `*data`, or a read.
  GuestAddress Submit(uint64_t sector, uint32_t sectors, const std::string* data = nullptr) {
    GuestAddress where;
    auto chain = harness_->queue(0).Chain();
    chain.ReadableObject(BlockRequestHeader{.type = data != nullptr ? kBlockWrite : kBlockRead, .sector = sector});
    if (data != nullptr) {
      chain.Readable(Bytes(*data));
    } else {
      chain.Writable(sectors * kSectorBytes, &where);
    }
    chain.Writable(1).SubmitIndirect();
    return where;
  }
  void AwaitUsed(uint16_t used_index) { ferrite::AwaitUsed(*harness_, used_index); }

  ImageFile file_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<VirtioHarness> harness_;
};

TEST_P(BlockEngineTest, ManyInFlightAllLandWhereTheyBelong) {
  std::vector<GuestAddress> data;
  for (uint16_t i = 0; i < 200; ++i) {
    data.push_back(Submit(i * 10, 9));
  }
  harness_->Kick(0);
  AwaitUsed(200);
  for (uint16_t i = 0; i < 200; ++i) {
    const std::vector<uint8_t> content = harness_->arena().Read(data[i], 9 * kSectorBytes);
    EXPECT_EQ(std::string(content.begin(), content.end()), ImageFile::Pattern(i * 10, 9)) << i;
  }
  for (uint16_t i = 0; i < 200; ++i) {
    const std::string mine(9 * kSectorBytes, static_cast<char>(i));
    Submit(i * 10, 9, &mine);
  }
  harness_->Kick(0);
  AwaitUsed(400);
  for (uint16_t i = 0; i < 200; ++i) {
    EXPECT_EQ(file_.Read(i * 10, 9), std::string(9 * kSectorBytes, static_cast<char>(i)));
    EXPECT_EQ(file_.Read(i * 10 + 9, 1), ImageFile::Pattern(i * 10 + 9, 1));
  }
}

TEST_P(BlockEngineTest, NothingChangesAfterQuiesceUnderLoad) {
  uint16_t submitted = 0;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 100; ++i) {
      Submit(i * 10, 8);
      ++submitted;
    }
    harness_->Kick(0);
    harness_->transport().Quiesce();
    // Whatever was taken is completed; the rest waits for Resume().
    const uint16_t used = harness_->queue(0).used_index();
    const uint64_t interrupts = harness_->interrupt().count();
    for (const auto& region : harness_->memory().regions()) {
      region->own_writes().ClearAll();
    }
    // What the loop still had to do would be done by now.
    loop_->RunAndWait([] {});
    loop_->RunAndWait([] {});
    EXPECT_EQ(harness_->queue(0).used_index(), used);
    EXPECT_EQ(harness_->interrupt().count(), interrupts);
    for (const auto& region : harness_->memory().regions()) {
      EXPECT_EQ(region->own_writes().Count(), 0u);
    }
    harness_->transport().Resume();
    AwaitUsed(submitted);
  }
}

TEST_P(BlockEngineTest, AResetByTheDriverWaitsForWhatIsInFlight) {
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 50; ++i) {
      Submit(i * 10, 8);
    }
    harness_->Kick(0);
    harness_->driver().Reset();
    for (const auto& region : harness_->memory().regions()) {
      region->own_writes().ClearAll();
    }
    loop_->RunAndWait([] {});
    for (const auto& region : harness_->memory().regions()) {
      EXPECT_EQ(region->own_writes().Count(), 0u);
    }
    harness_->Start(harness_->driver().OfferedFeatures(), kBlockQueueSize);
  }
  harness_->interrupt().Take();
  Submit(0, 1);
  harness_->Kick(0);
  AwaitUsed(1);
}

class LargeBlockEngineTest : public BlockEngineTest {
 protected:
  static constexpr uint32_t kBytes = uint32_t{31} << 20;

  void SetUp() override {
    file_.Grow(kBytes);
    for (uint64_t sector = kSectors; sector < kBytes / kSectorBytes; sector += 1000) {
      file_.Write(sector, ImageFile::Pattern(sector, 1));
    }
    BlockEngineTest::SetUp();
  }
};

TEST_P(LargeBlockEngineTest, ARequestInPiecesOutlastsPauses) {
  const GuestAddress buffer(uint64_t{32} << 20);  // the test's half of memory
  harness_->Start(harness_->driver().OfferedFeatures() & ~(kBlockFeatureSizeMax | kBlockFeatureSegMax));
  harness_->queue(0)
      .Chain()
      .ReadableObject(BlockRequestHeader{.type = kBlockRead})
      .WritableAt(buffer, kBytes)
      .Writable(1)
      .Submit();
  harness_->Kick(0);
  for (int round = 0; round < 3; ++round) {
    harness_->transport().Quiesce();
    harness_->memory().regions()[0]->own_writes().ClearAll();
    loop_->RunAndWait([] {});
    loop_->RunAndWait([] {});
    EXPECT_EQ(harness_->memory().regions()[0]->own_writes().Count(), 0u);
    harness_->transport().Resume();
  }
  AwaitUsed(1);
  const std::vector<uint8_t> content = harness_->arena().Read(buffer, kBytes);
  EXPECT_TRUE(std::string(content.begin(), content.end()) == file_.Read(0, kBytes / kSectorBytes));
}

constexpr auto kEngineName = [](const testing::TestParamInfo<AsyncIo::Engine>& info) {
  return info.param == AsyncIo::Engine::kIoUring ? "IoUring" : "Threads";
};
INSTANTIATE_TEST_SUITE_P(Engines, BlockEngineTest,
                         testing::Values(AsyncIo::Engine::kIoUring, AsyncIo::Engine::kThreads), kEngineName);
INSTANTIATE_TEST_SUITE_P(Engines, LargeBlockEngineTest,
                         testing::Values(AsyncIo::Engine::kIoUring, AsyncIo::Engine::kThreads), kEngineName);

}  // namespace
}  // namespace ferrite
