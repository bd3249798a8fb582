// Who is told of writes, the answers that wait for it, and images that are replaced.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "devices/block/block.h"
#include "devices/block/block_fixture.h"
#include "devices/block/write_witness.h"

namespace ferrite {
namespace {

struct Told {
  uint64_t offset;
  uint64_t bytes;
  bool operator==(const Told&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Told& told) { return out << told.offset << "+" << told.bytes; }

using AllTold = std::vector<Told>;

Told Sectors(uint64_t sector, uint64_t sectors) { return {sector * kSectorBytes, sectors * kSectorBytes}; }

// Gives the tickets 1, 2, 3 ... while it holds.
class FakeWitness final : public WriteWitness {
 public:
  uint64_t Wrote(uint64_t offset, uint64_t bytes) override {
    told.push_back({offset, bytes});
    if (look) {
      look();
    }
    return hold ? ++last_ticket : 0;
  }

  AllTold told;
  bool hold = false;
  uint64_t last_ticket = 0;
  std::function<void()> look;
};

class BlockWitnessTest : public BlockTest {
 protected:
  void StartWatched(uint64_t refused_features = 0) {
    Start(refused_features);
    SetWitness(&witness_);
  }
  ChainBuilder Write(uint64_t sector, uint32_t sectors = 1, char byte = 'w') {
    auto chain = Request(kBlockWrite, sector);
    chain.Readable(Bytes(std::string(sectors * kSectorBytes, byte)));
    return chain;
  }
  void TearDown() override { SetWitness(nullptr); }
  // With a status of its own, which is returned.
  GuestAddress SubmitWrite(uint64_t sector, uint16_t* head = nullptr) {
    GuestAddress status;
    auto chain = Write(sector);
    chain.Writable(1, &status);
    const uint16_t submitted = chain.Submit();
    if (head != nullptr) {
      *head = submitted;
    }
    return status;
  }

  FakeWitness witness_;
};

TEST_F(BlockWitnessTest, IsToldOnceTheFileHasItAndBeforeTheGuestKnows) {
  StartWatched();
  witness_.look = [this] {
    EXPECT_EQ(file_.Read(100, 3), std::string(3 * kSectorBytes, 'w'));
    EXPECT_FALSE(queue().HasUsed());
    EXPECT_EQ(StatusByte(), kUntouched);
  };
  Submit(Write(100, 3));
  EXPECT_EQ(witness_.told, AllTold{}) << "nothing was done yet";
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(witness_.told, AllTold{Sectors(100, 3)});
}

TEST_F(BlockWitnessTest, IsNotToldOfWhatWritesNothing) {
  StartWatched();
  witness_.hold = true;
  EXPECT_EQ(Run(Request(kBlockRead, 1).Writable(512)), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockFlush, 0)), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockGetId, 0).Writable(20)), kBlockStatusOk);
  EXPECT_EQ(Run(Write(kSectors)), kBlockStatusIoError);
  EXPECT_EQ(Run(Request(kBlockWrite, 0)), kBlockStatusOk) << "of no sector";
  EXPECT_EQ(Run(Request(kBlockDiscard, 0).ReadableObject(BlockRange{.sector = 4, .sectors = 0})), kBlockStatusOk);
  Submit(Request(kBlockFlush, 0));
  io_->Fail(0, EIO);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  Submit(Request(kBlockRead, 0).Writable(512));
  io_->Fail(0, EIO);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  EXPECT_EQ(witness_.told, AllTold{});
}

TEST_F(BlockWitnessTest, IsToldOfEachRange) {
  StartWatched();
  auto discard = Request(kBlockDiscard, 0);
  for (const BlockRange range : {BlockRange{.sector = 16, .sectors = 8}, BlockRange{.sector = 5, .sectors = 0},
                                 BlockRange{.sector = 64, .sectors = 16}}) {
    discard.ReadableObject(range);
  }
  Submit(std::move(discard));
  io_->Finish(0);
  EXPECT_EQ(witness_.told, AllTold{Sectors(16, 8)});
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(witness_.told, (AllTold{Sectors(16, 8), Sectors(64, 16)}));
  for (const uint32_t flags : {0u, kBlockRangeUnmap}) {
    witness_.told.clear();
    const BlockRange range = {.sector = 200, .sectors = 3, .flags = flags};
    EXPECT_EQ(Run(Request(kBlockWriteZeroes, 0).ReadableObject(range)), kBlockStatusOk);
    EXPECT_EQ(witness_.told, AllTold{Sectors(200, 3)});
  }
}

// They may have been done in part.
TEST_F(BlockWitnessTest, IsToldOfWhatFailed) {
  StartWatched();
  Submit(Write(7, 2));
  io_->Fail(0, ENOSPC);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  Submit(Request(kBlockWriteZeroes, 0).ReadableObject(BlockRange{.sector = 20, .sectors = 4}));
  io_->Fail(0, EIO);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  // The second of three.
  auto discard = Request(kBlockDiscard, 0);
  for (const uint64_t sector : {32, 64, 96}) {
    discard.ReadableObject(BlockRange{.sector = sector, .sectors = 8});
  }
  Submit(std::move(discard));
  io_->Finish(0);
  io_->Fail(0, EIO);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  EXPECT_EQ(witness_.told, (AllTold{Sectors(7, 2), Sectors(20, 4), Sectors(32, 8), Sectors(64, 8)}));
}

TEST_F(BlockWitnessTest, AnswersWaitForTheirTicketsInAnyOrder) {
  StartWatched();
  witness_.hold = true;
  constexpr size_t kWrites = 6;
  std::vector<uint16_t> heads(kWrites);
  std::vector<GuestAddress> statuses;
  for (size_t i = 0; i < kWrites; ++i) {
    statuses.push_back(SubmitWrite(10 * i, &heads[i]));
  }
  harness_.Kick(0);
  ASSERT_EQ(io_->started().size(), kWrites);
  // Done in the order 5 0 1 2 3 4, so these are their tickets 1 to 6; the write 3 has failed.
  io_->Finish(5);
  for (const bool fails : {false, false, false, true, false}) {
    fails ? io_->Fail(0, EIO) : io_->Finish(0);
  }
  EXPECT_EQ(witness_.last_ticket, kWrites);
  EXPECT_FALSE(queue().HasUsed());
  const std::vector<size_t> done = {5, 0, 1, 2, 3, 4};
  for (const uint64_t ticket : {4u, 6u, 1u, 5u, 3u, 2u}) {
    const size_t write = done[ticket - 1];
    EXPECT_FALSE(queue().HasUsed());
    queue().EnableInterrupts();
    const uint64_t interrupts = harness_.interrupt().count();
    device_->AnswerHeld(ticket);
    EXPECT_EQ(harness_.interrupt().count(), interrupts + 1);
    const auto used = queue().TakeUsed();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(*used, (QueueDriver::Used{heads[write], 1}));
    EXPECT_EQ(harness_.arena().Read(statuses[write], 1)[0], write == 3 ? kBlockStatusIoError : kBlockStatusOk) << write;
    device_->AnswerHeld(ticket);
    EXPECT_FALSE(queue().HasUsed()) << "twice";
  }
}

TEST_F(BlockWitnessTest, UnknownTicketsAreNothing) {
  StartWatched();
  device_->AnswerHeld(0);
  device_->AnswerHeld(1);
  witness_.hold = true;
  Submit(Write(0));
  device_->AnswerHeld(1);  // not given yet
  io_->Finish(0);
  device_->AnswerHeld(0);
  device_->AnswerHeld(2);
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(1);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
}

TEST_F(BlockWitnessTest, ReadsAndFlushesOvertakeWhatIsHeld) {
  StartWatched();
  witness_.hold = true;
  SubmitWrite(3);
  harness_.Kick(0);
  io_->Finish(0);
  EXPECT_EQ(Run(Request(kBlockFlush, 0)), kBlockStatusOk);
  GuestAddress data;
  EXPECT_EQ(Run(Request(kBlockRead, 3).Writable(512, &data)), kBlockStatusOk);
  EXPECT_EQ(GuestText(data, 512), std::string(512, 'w'));
  // And so does a write that has no ticket.
  witness_.hold = false;
  EXPECT_EQ(Run(Write(4)), kBlockStatusOk);
  device_->AnswerHeld(1);
  EXPECT_TRUE(queue().HasUsed());
}

TEST_F(BlockWitnessTest, ADiscardWaitsForTheTicketsOfAllRanges) {
  StartWatched();
  witness_.hold = true;
  constexpr uint64_t kRanges = kMaxBlockRanges;
  auto discard = Request(kBlockDiscard, 0);
  for (uint64_t i = 0; i < kRanges; ++i) {
    discard.ReadableObject(BlockRange{.sector = 16 * i, .sectors = 8});
  }
  Submit(std::move(discard));
  for (uint64_t i = 0; i < kRanges; ++i) {
    ASSERT_EQ(io_->started().size(), 1u) << "the file's work waits for no ticket";
    io_->Finish(0);
    if (i == 3) {
      device_->AnswerHeld(2);  // before the others are done
    }
  }
  ASSERT_EQ(witness_.last_ticket, kRanges);
  for (uint64_t ticket = 1; ticket <= kRanges; ++ticket) {
    device_->AnswerHeld(ticket - 1);  // once more
    EXPECT_FALSE(queue().HasUsed());
    device_->AnswerHeld(ticket);
  }
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
}

// Every ticket may be answered before the file is done with the rest.
TEST_F(BlockWitnessTest, ADiscardWaitsForTheFileToo) {
  StartWatched();
  witness_.hold = true;
  Submit(Request(kBlockDiscard, 0)
             .ReadableObject(BlockRange{.sector = 0, .sectors = 8})
             .ReadableObject(BlockRange{.sector = 8, .sectors = 8}));
  io_->Finish(0);
  device_->AnswerHeld(1);
  EXPECT_FALSE(queue().HasUsed());
  witness_.hold = false;
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
}

// The witness' side and the disk's flush go on at the same time; the later one answers.
TEST_F(BlockWitnessTest, WriteThroughIsToldBeforeItsFlush) {
  StartWatched(kBlockFeatureFlush | kBlockFeatureConfigWriteback);
  witness_.hold = true;
  Submit(Write(0));
  io_->Finish(0);
  EXPECT_EQ(witness_.told, AllTold{Sectors(0, 1)});
  ASSERT_EQ(io_->started().size(), 1u);
  EXPECT_EQ(io_->started()[0]->kind, IoRequest::Kind::kFlush);
  device_->AnswerHeld(1);
  EXPECT_FALSE(queue().HasUsed()) << "it is not on the disk";
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);

  Submit(Write(0));
  io_->Finish(0);
  io_->Fail(0, EIO);
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(2);
  EXPECT_EQ(TakeStatus(), kBlockStatusIoError);
  EXPECT_EQ(witness_.told.size(), 2u) << "a flush writes nothing";
}

TEST_F(BlockWitnessTest, AFullQueueMayBeHeld) {
  StartWatched();
  harness_.Start(harness_.driver().OfferedFeatures(), kBlockQueueSize);
  witness_.hold = true;
  const auto submit = [this] {
    GuestAddress status;
    auto chain = Write(1);
    chain.Writable(1, &status);
    chain.SubmitIndirect();
    return status;
  };
  for (int round = 0; round < 2; ++round) {
    const uint64_t before = witness_.last_ticket;
    std::vector<GuestAddress> statuses;
    for (uint16_t i = 0; i < kBlockQueueSize; ++i) {
      statuses.push_back(submit());
    }
    harness_.Kick(0);
    ASSERT_EQ(io_->started().size(), kBlockQueueSize);
    while (!io_->started().empty()) {
      io_->Finish(0);
    }
    ASSERT_EQ(witness_.last_ticket, before + kBlockQueueSize);
    for (uint64_t i = 0; i < kBlockQueueSize; ++i) {
      EXPECT_FALSE(queue().HasUsed());
      device_->AnswerHeld(before + 1 + (i * 77) % kBlockQueueSize);
      ASSERT_TRUE(queue().TakeUsed().has_value());
      EXPECT_EQ(harness_.arena().Read(statuses[(i * 77) % kBlockQueueSize], 1)[0], kBlockStatusOk);
    }
  }
  // Without one, nobody waits.
  SetWitness(nullptr);
  EXPECT_EQ(Run(Write(0)), kBlockStatusOk);
}

// ---- Pause, reset, and the end of a witness ----

TEST_F(BlockWitnessTest, APauseLetsGoOfWhatIsHeld) {
  StartWatched();
  witness_.hold = true;
  for (const uint64_t sector : {1, 2, 3}) {
    SubmitWrite(sector);
  }
  harness_.Kick(0);
  io_->Finish(0);
  io_->Finish(0);
  io_->Finish(0);
  EXPECT_FALSE(queue().HasUsed());
  harness_.transport().Quiesce();
  EXPECT_EQ(queue().used_index(), 3);
  ASSERT_NO_FATAL_FAILURE(SaveResetAndLoad());
  device_->AnswerHeld(1);
  EXPECT_EQ(queue().used_index(), 3);
  for (int i = 0; i < 3; ++i) {
    queue().TakeUsed();
  }
  // The witness is still there, and its tickets count again.
  harness_.transport().Resume();
  Submit(Write(9));
  io_->Finish(0);
  device_->AnswerHeld(3);
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(4);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(witness_.told, (AllTold{Sectors(1, 1), Sectors(2, 1), Sectors(3, 1), Sectors(9, 1)}));
}

// Told, but its ticket is dropped.
TEST_F(BlockWitnessTest, WhatIsDoneDuringAPauseIsNotHeld) {
  StartWatched(kBlockFeatureFlush | kBlockFeatureConfigWriteback);
  witness_.hold = true;
  const GuestAddress first = SubmitWrite(1);
  const GuestAddress second = SubmitWrite(2);
  harness_.Kick(0);
  io_->Finish(0);  // has ticket 1, and waits for its flush
  ASSERT_EQ(io_->started().size(), 2u);
  std::thread completion;
  {
    absl::MutexLock lock(&device_->mutex());
    // Gets no further than to the device's mutex before the pause waits.
    completion = std::thread([this] {
      io_->Finish(0);
      io_->Finish(0);
      io_->Finish(0);
    });
    device_->Drain();
  }
  completion.join();
  EXPECT_EQ(witness_.told, (AllTold{Sectors(1, 1), Sectors(2, 1)}));
  EXPECT_EQ(queue().used_index(), 2);
  EXPECT_EQ(harness_.arena().Read(first, 1)[0], kBlockStatusOk);
  EXPECT_EQ(harness_.arena().Read(second, 1)[0], kBlockStatusOk);
  device_->AnswerHeld(1);
  device_->AnswerHeld(2);
  EXPECT_EQ(queue().used_index(), 2);
}

TEST_F(BlockWitnessTest, TicketsOfBeforeAResetAreNothing) {
  StartWatched();
  witness_.hold = true;
  SubmitWrite(1);
  harness_.Kick(0);
  io_->Finish(0);
  // By the driver, which waits for no ticket, and anew.
  harness_.Start(harness_.driver().OfferedFeatures());
  device_->AnswerHeld(1);
  EXPECT_EQ(queue().used_index(), 0);
  Submit(Write(2));
  io_->Finish(0);
  device_->AnswerHeld(1);
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(2);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);

  // By the machine.
  SubmitWrite(3);
  harness_.Kick(0);
  io_->Finish(0);
  harness_.transport().Quiesce();
  harness_.transport().Reset();
  harness_.transport().Resume();
  device_->AnswerHeld(3);
  harness_.Start(harness_.driver().OfferedFeatures());
  Submit(Write(4));
  io_->Finish(0);
  device_->AnswerHeld(3);
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(4);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
}

TEST_F(BlockWitnessTest, WhenItGoesAllIsAnswered) {
  StartWatched(kBlockFeatureFlush | kBlockFeatureConfigWriteback);
  witness_.hold = true;
  SubmitWrite(1);
  SubmitWrite(2);
  SubmitWrite(3);
  harness_.Kick(0);
  io_->Finish(0);  // the first two are written, with tickets
  io_->Finish(0);
  io_->Finish(1);  // and the first is flushed
  ASSERT_EQ(io_->started().size(), 2u);
  EXPECT_EQ(queue().used_index(), 0);
  queue().EnableInterrupts();
  const uint64_t interrupts = harness_.interrupt().count();
  SetWitness(&witness_);
  EXPECT_EQ(queue().used_index(), 0) << "it is no other one";
  SetWitness(nullptr);
  EXPECT_EQ(queue().used_index(), 1);
  EXPECT_EQ(harness_.interrupt().count(), interrupts + 1);
  device_->AnswerHeld(1);
  device_->AnswerHeld(2);
  EXPECT_EQ(queue().used_index(), 1) << "the second is not on the disk";
  while (!io_->started().empty()) {
    io_->Finish(0);
  }
  EXPECT_EQ(queue().used_index(), 3);
  EXPECT_EQ(witness_.told, (AllTold{Sectors(1, 1), Sectors(2, 1)})) << "the third was over later";
}

TEST_F(BlockWitnessTest, AnotherOneDoesNotAnswerForTheFirst) {
  StartWatched();
  witness_.hold = true;
  FakeWitness other;
  other.hold = true;
  SubmitWrite(1);
  SubmitWrite(2);
  harness_.Kick(0);
  io_->Finish(0);
  SetWitness(&other);
  EXPECT_EQ(queue().used_index(), 1);
  io_->Finish(0);
  EXPECT_EQ(other.told, AllTold{Sectors(2, 1)});
  EXPECT_EQ(witness_.told, AllTold{Sectors(1, 1)});
  EXPECT_EQ(queue().used_index(), 1);
  device_->AnswerHeld(1);
  EXPECT_EQ(queue().used_index(), 2);
  SetWitness(nullptr);
}

// ---- Large transfers ----

class LargeBlockWitnessTest : public LargeBlockTest {
 protected:
  static constexpr uint64_t kFirst = 8;  // its first sector

  void SetUp() override {
    LargeBlockTest::SetUp();
    SetWitness(&witness_);
    ASSERT_TRUE(harness_.memory().Fill(kBuffer, 0x77, kBytes).ok());
  }
  void TearDown() override { SetWitness(nullptr); }
  ChainBuilder LargeWrite() { return Request(kBlockWrite, kFirst).ReadableAt(kBuffer, kBytes); }
  static Told Range(uint64_t first, uint64_t end) { return {kFirst * kSectorBytes + first, end - first}; }

  FakeWitness witness_;
};

TEST_F(LargeBlockWitnessTest, IsToldOfTheWholeAndHoldsItOnce) {
  witness_.hold = true;
  Submit(LargeWrite());
  io_->Finish(0);
  EXPECT_EQ(witness_.told, AllTold{});
  io_->Finish(0);
  EXPECT_EQ(witness_.told, AllTold{Range(0, kBytes)});
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(1);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(Run(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes)), kBlockStatusOk);
  EXPECT_EQ(witness_.told.size(), 1u);
}

TEST_F(LargeBlockWitnessTest, IsToldUpToThePieceThatFailed) {
  witness_.hold = true;
  const GuestAddress status = harness_.arena().Place(std::vector<uint8_t>{kUntouched});
  LargeWrite().ReadableAt(kBuffer, kBytes).WritableAt(status, 1).Submit();
  Request(kBlockRead, 0).Writable(512).Writable(1).Submit();
  harness_.Kick(0);
  io_->Finish(0);
  io_->Fail(0, EIO);
  EXPECT_EQ(witness_.told, AllTold{Range(0, 2 * kPiece)});
  // What comes after it does not wait for the witness.
  harness_.loop().RunReady();
  ASSERT_EQ(io_->started().size(), 1u);
  io_->Finish(0);
  EXPECT_EQ(queue().used_index(), 1);
  device_->AnswerHeld(1);
  EXPECT_EQ(queue().used_index(), 2);
  EXPECT_EQ(harness_.arena().Read(status, 1)[0], kBlockStatusIoError);
}

TEST_F(LargeBlockWitnessTest, IsToldOfThePiecesOfWhatIsPutBack) {
  witness_.hold = true;
  Submit(LargeWrite());
  PauseAfterThePiece();
  EXPECT_EQ(witness_.told, AllTold{Range(0, kPiece)});
  device_->AnswerHeld(1);
  harness_.transport().Resume();
  harness_.loop().RunReady();
  device_->AnswerHeld(1);
  io_->Finish(0);
  EXPECT_EQ(witness_.told, (AllTold{Range(0, kPiece), Range(kPiece, kBytes)}));
  device_->AnswerHeld(1);
  EXPECT_FALSE(queue().HasUsed());
  device_->AnswerHeld(2);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
}

// Where a state was loaded it is done from its start, and told of so.
TEST_F(LargeBlockWitnessTest, IsToldAgainOfWhatIsDoneAgain) {
  Submit(LargeWrite());
  PauseAfterThePiece();
  ASSERT_NO_FATAL_FAILURE(SaveResetAndLoad());
  harness_.transport().Resume();
  harness_.loop().RunReady();
  io_->Finish(0);
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(witness_.told, (AllTold{Range(0, kPiece), Range(0, kBytes)}));
}

TEST_F(LargeBlockWitnessTest, WhatIsPutBackOfAReadIsNothing) {
  Submit(Request(kBlockRead, 0).WritableAt(kBuffer, kBytes));
  PauseAfterThePiece();
  EXPECT_EQ(witness_.told, AllTold{});
  harness_.transport().Resume();
  harness_.loop().RunReady();
  io_->Finish(0);
}

// Held bytes keep nothing back: the witness' side may need longer than the queue is deep.
TEST_F(LargeBlockWitnessTest, HeldBytesDoNotStallTheQueue) {
  witness_.hold = true;
  constexpr uint16_t kWrites = 3 * kMaxBlockBytesInFlight / kMaxBlockTransferBytes;
  for (uint16_t i = 0; i < kWrites; ++i) {
    Request(kBlockWrite, 0).ReadableAt(kBuffer, kMaxBlockTransferBytes).Writable(1).Submit();
  }
  harness_.Kick(0);
  for (uint16_t i = 0; i < kWrites; ++i) {
    ASSERT_FALSE(io_->started().empty()) << i;
    io_->Finish(0);
    harness_.loop().RunReady();
  }
  EXPECT_EQ(queue().used_index(), 0);
  for (uint64_t ticket = 1; ticket <= kWrites; ++ticket) {
    device_->AnswerHeld(ticket);
  }
  EXPECT_EQ(queue().used_index(), kWrites);
}

// ---- Another image ----

class BlockImageTest : public LargeBlockTest {
 protected:
  // Puts `to` in, and returns what was there.
  std::unique_ptr<DiskImage> Replace(std::unique_ptr<DiskImage> to) {
    harness_.transport().Quiesce();
    std::unique_ptr<DiskImage> old;
    {
      const virtio::Device::Lock lock(device_);
      old = device_->ReplaceImage(std::move(to));
    }
    harness_.transport().Resume();
    harness_.loop().RunReady();
    return old;
  }

  ImageFile other_;
};

TEST_F(BlockImageTest, GoesOnWithAnotherImage) {
  other_.Grow(uint64_t{64} << 20);
  other_.Write(5, std::string(512, 'n'));
  EXPECT_EQ(Run(Request(kBlockWrite, 6).Readable(Bytes(std::string(512, 'o')))), kBlockStatusOk);
  const std::unique_ptr<DiskImage> old = Replace(other_.Open());
  EXPECT_EQ(old->path(), file_.path());
  EXPECT_TRUE(old->held());
  GuestAddress data;
  EXPECT_EQ(Run(Request(kBlockRead, 5).Writable(512, &data)), kBlockStatusOk);
  EXPECT_EQ(GuestText(data, 512), std::string(512, 'n'));
  EXPECT_EQ(Run(Request(kBlockWrite, 6).Readable(Bytes(std::string(512, 'p')))), kBlockStatusOk);
  EXPECT_EQ(file_.Read(6, 1), std::string(512, 'o'));
  EXPECT_EQ(other_.Read(6, 1), std::string(512, 'p'));
  {
    const virtio::Device::Lock lock(device_);
    EXPECT_EQ(device_->image().path(), other_.path());
    EXPECT_EQ(device_->ReleaseFiles().ToString(), "OK");
    EXPECT_EQ(device_->AcquireFiles().ToString(), "OK");
  }
  // Also after a reset.
  harness_.Start(harness_.driver().OfferedFeatures());
  EXPECT_EQ(Run(Request(kBlockRead, 6).Writable(512, &data)), kBlockStatusOk);
  EXPECT_EQ(GuestText(data, 512), std::string(512, 'p'));
}

// A write that was put back goes on in the new one: the witness knows of the pieces in the old one.
TEST_F(BlockImageTest, WhatWasPutBackGoesOnThere) {
  other_.Grow(uint64_t{64} << 20);
  FakeWitness witness;
  SetWitness(&witness);
  ASSERT_TRUE(harness_.memory().Fill(kBuffer, 0x77, kBytes).ok());
  Submit(Request(kBlockWrite, 0).ReadableAt(kBuffer, kBytes));
  PauseAfterThePiece();
  EXPECT_EQ(witness.told, (AllTold{{0, kPiece}}));
  harness_.transport().Resume();
  const std::unique_ptr<DiskImage> old = Replace(other_.Open());
  io_->Finish(0);
  EXPECT_EQ(TakeStatus(), kBlockStatusOk);
  EXPECT_EQ(other_.Read(0, 1), ImageFile::Pattern(0, 1));
  EXPECT_EQ(other_.Read(kPiece / kSectorBytes, 1), std::string(512, '\x77'));
  EXPECT_NE(file_.Read(kBytes / kSectorBytes - 1, 1), std::string(512, '\x77'));
  SetWitness(nullptr);
}

}  // namespace
}  // namespace ferrite
