#include "memory/guest_memory.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

std::unique_ptr<GuestMemory> MakeMemory(uint64_t bytes, MemoryBacking backing = MemoryBacking::kMemfd) {
  auto memory = GuestMemory::Create(bytes, backing);
  EXPECT_TRUE(memory.ok()) << memory.status();
  return memory.ok() ? *std::move(memory) : nullptr;
}

// Two regions that touch: [0, 1 MiB) and [1 MiB, 2 MiB).
std::unique_ptr<GuestMemory> MakeTouchingRegions() {
  std::vector<std::unique_ptr<MemoryRegion>> regions;
  for (const uint64_t base : {kMiB, uint64_t{0}}) {
    regions.push_back(*MemoryRegion::Create("ram", GuestAddress(base), kMiB, MemoryBacking::kAnonymous));
  }
  return std::make_unique<GuestMemory>(std::move(regions));
}

uint64_t WrittenPages(const GuestMemory& memory) {
  uint64_t pages = 0;
  for (const auto& region : memory.regions()) {
    pages += region->own_writes().Count();
  }
  return pages;
}

TEST(GuestMemoryTest, SmallGuestIsOneRegion) {
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kAnonymous}) {
    const auto memory = MakeMemory(128 * kMiB, backing);
    ASSERT_EQ(memory->regions().size(), 1u);
    EXPECT_EQ(memory->regions()[0]->name(), "ram-low");
    EXPECT_EQ(memory->regions()[0]->base(), GuestAddress(0));
    EXPECT_EQ(memory->total_bytes(), 128 * kMiB);
  }
}

TEST(GuestMemoryTest, GuestOfExactlyTheHolesStartHasNoHighRegion) {
  EXPECT_EQ(MakeMemory(kMmioHoleStart.value())->regions().size(), 1u);
}

TEST(GuestMemoryTest, LargeGuestLeavesTheHoleBelow4GiB) {
  const auto memory = MakeMemory(5 * kGiB);
  ASSERT_EQ(memory->regions().size(), 2u);
  const MemoryRegion& low = *memory->regions()[0];
  const MemoryRegion& high = *memory->regions()[1];
  EXPECT_EQ(low.end(), kMmioHoleStart);
  EXPECT_EQ(high.name(), "ram-high");
  EXPECT_EQ(high.base(), kMmioHoleEnd);
  EXPECT_EQ(high.bytes(), 2 * kGiB);
  EXPECT_EQ(memory->total_bytes(), 5 * kGiB);
  EXPECT_EQ(memory->Find(GuestAddress(kMmioHoleStart.value() - 1)), &low);
  EXPECT_EQ(memory->Find(kMmioHoleStart), nullptr);
  EXPECT_EQ(memory->Find(GuestAddress(kMmioHoleEnd.value() - 1)), nullptr);
  EXPECT_EQ(memory->Find(kMmioHoleEnd), &high);
  EXPECT_EQ(memory->Find(GuestAddress(6 * kGiB)), nullptr);

  ASSERT_TRUE(memory->WriteObject<uint32_t>(GuestAddress(6 * kGiB - 4), 0x12345678).ok());
  EXPECT_EQ(*memory->ReadObject<uint32_t>(GuestAddress(6 * kGiB - 4)), 0x12345678u);
  EXPECT_TRUE(high.guest_mapping()[2 * kGiB - 1] == 0x12);
  EXPECT_FALSE(memory->WriteObject<uint32_t>(GuestAddress(kMmioHoleStart.value() - 2), 1).ok());
}

TEST(GuestMemoryTest, RefusesSizesThatCannotBe) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{4095}, kMaxGuestMemoryBytes + kPageBytes, ~uint64_t{0}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(GuestMemory::Create(bytes, MemoryBacking::kMemfd).status())) << bytes;
  }
}

// A guest may put any 64-bit number into a descriptor (R11).
TEST(GuestMemoryTest, AccessesOutsideOfRamAreRefusedWholeAndNamed) {
  const auto memory = MakeMemory(kMiB);
  const uint64_t end = kMiB;
  std::vector<uint8_t> buffer(2 * kMiB, 0xee);
  const struct {
    uint64_t address;
    uint64_t bytes;
  } kOutside[] = {
      {end, 1},
      {end - 1, 2},
      {0, end + 1},
      {end - 4, 8},
      {kMmioHoleStart.value(), 1},
      {~uint64_t{0}, 1},
      {~uint64_t{0}, 2},
      {~uint64_t{0} - 3, 8},
      {~uint64_t{0} - end + 1, 2 * end},
      {uint64_t{1} << 63, 16},
  };
  for (const auto& [address, bytes] : kOutside) {
    const GuestAddress at(address);
    const std::span<uint8_t> part(buffer.data(), bytes);
    EXPECT_TRUE(absl::IsOutOfRange(memory->Read(at, part))) << address << " " << bytes;
    EXPECT_TRUE(absl::IsOutOfRange(memory->Write(at, part))) << address << " " << bytes;
    EXPECT_TRUE(absl::IsOutOfRange(memory->Fill(at, 1, bytes))) << address << " " << bytes;
    EXPECT_TRUE(absl::IsOutOfRange(memory->Slice(at, bytes).status())) << address << " " << bytes;
  }
  for (const uint64_t bytes : {~uint64_t{0}, ~uint64_t{0} - 15, uint64_t{1} << 63}) {
    EXPECT_TRUE(absl::IsOutOfRange(memory->Fill(GuestAddress(16), 1, bytes))) << bytes;
    EXPECT_TRUE(absl::IsOutOfRange(memory->Slice(GuestAddress(16), bytes).status())) << bytes;
  }
  EXPECT_EQ(WrittenPages(*memory), 0u);
  EXPECT_EQ(*memory->regions()[0]->ResidentBytes(), 0u) << "nothing was copied";
  EXPECT_EQ(buffer, std::vector<uint8_t>(2 * kMiB, 0xee)) << "nothing was copied";
  EXPECT_EQ(memory->Fill(GuestAddress(0xfff00), 0, 0x200).message(), "guest memory: 512 bytes at 0xfff00 are not RAM");
}

TEST(GuestMemoryTest, NoBytesAreNoAccess) {
  const auto memory = MakeMemory(kMiB);
  EXPECT_TRUE(memory->Read(GuestAddress(~uint64_t{0}), {}).ok());
  EXPECT_TRUE(memory->Write(GuestAddress(kMiB), {}).ok());
  EXPECT_TRUE(memory->Fill(GuestAddress(5), 1, 0).ok());
  EXPECT_EQ(memory->Slice(GuestAddress(5), 0)->size(), 0u);
  EXPECT_EQ(WrittenPages(*memory), 0u);
}

TEST(GuestMemoryTest, CopiesOfEveryLengthAndAlignmentArriveWhole) {
  const auto memory = MakeMemory(kMiB);
  std::vector<uint8_t> pattern(40);
  std::iota(pattern.begin(), pattern.end(), uint8_t{1});
  for (uint64_t offset = kPageBytes - 20; offset < kPageBytes + 4; ++offset) {
    for (size_t bytes = 0; bytes <= pattern.size(); ++bytes) {
      ASSERT_TRUE(memory->Fill(GuestAddress(kPageBytes - 64), 0, 256).ok());
      ASSERT_TRUE(memory->Write(GuestAddress(offset), {pattern.data(), bytes}).ok());
      std::vector<uint8_t> back(bytes + 2, 0xff);
      ASSERT_TRUE(memory->Read(GuestAddress(offset - 1), back).ok());
      ASSERT_EQ(back.front(), 0) << offset << " " << bytes;
      ASSERT_EQ(back.back(), 0) << offset << " " << bytes;
      ASSERT_TRUE(std::equal(back.begin() + 1, back.end() - 1, pattern.begin())) << offset << " " << bytes;
      std::vector<uint8_t> same(bytes);
      ASSERT_TRUE(memory->Read(GuestAddress(offset), same).ok());
      ASSERT_TRUE(std::equal(same.begin(), same.end(), pattern.begin())) << offset << " " << bytes;
    }
  }
}

TEST(GuestMemoryTest, OwnWritesCountAsDirtyAndReadsDoNot) {
  const auto memory = MakeMemory(kMiB);
  PageBitmap& written = memory->regions()[0]->own_writes();
  std::array<uint8_t, 3> bytes = {1, 2, 3};
  ASSERT_TRUE(memory->Read(GuestAddress(0), bytes).ok());
  ASSERT_TRUE(memory->Slice(GuestAddress(0), 8192).ok());
  EXPECT_EQ(written.Count(), 0u);

  ASSERT_TRUE(memory->Write(GuestAddress(2 * kPageBytes - 1), bytes).ok());
  EXPECT_EQ(written.FindSet(0), 1u);
  EXPECT_EQ(written.Count(), 2u);
  ASSERT_TRUE(memory->Fill(GuestAddress(10 * kPageBytes), 0, 1).ok());
  EXPECT_TRUE(written.Test(10));
  EXPECT_TRUE(
      absl::IsDataLoss(memory->WriteInPlace(GuestAddress(20 * kPageBytes), kPageBytes + 1, [&](std::span<uint8_t> to) {
        to[0] = 1;
        // A mark that a round collects before the bytes are there loses them (R1).
        EXPECT_FALSE(written.Test(20));
        return absl::DataLossError("in the middle");
      })));
  EXPECT_TRUE(written.Test(20));
  EXPECT_TRUE(written.Test(21));
  memory->MarkWritten(GuestAddress(30 * kPageBytes), 5);
  EXPECT_TRUE(written.Test(30));
  ASSERT_TRUE(memory->WriteObject<uint8_t>(GuestAddress(40 * kPageBytes), 0).ok());
  EXPECT_TRUE(written.Test(40));
  EXPECT_EQ(written.Count(), 7u);
}

TEST(GuestMemoryTest, SliceIsTheGuestsMemory) {
  const auto memory = MakeMemory(kMiB);
  const auto slice = memory->Slice(GuestAddress(100), 50);
  ASSERT_TRUE(slice.ok());
  ASSERT_EQ(slice->size(), 50u);
  (*slice)[49] = 9;
  EXPECT_EQ(*memory->ReadObject<uint8_t>(GuestAddress(149)), 9);
}

TEST(GuestMemoryTest, AccessMayCrossRegionsThatTouchButASliceMayNot) {
  const auto memory = MakeTouchingRegions();
  ASSERT_TRUE(memory->WriteObject<uint64_t>(GuestAddress(kMiB - 3), 0x0807060504030201).ok());
  EXPECT_EQ(*memory->ReadObject<uint64_t>(GuestAddress(kMiB - 3)), 0x0807060504030201u);
  EXPECT_EQ(memory->regions()[1]->guest_mapping()[0], 4);
  EXPECT_EQ(WrittenPages(*memory), 2u);
  EXPECT_TRUE(memory->Fill(GuestAddress(0), 1, 2 * kMiB).ok());
  EXPECT_TRUE(absl::IsOutOfRange(memory->Fill(GuestAddress(0), 2, 2 * kMiB + 1)));
  EXPECT_EQ(*memory->ReadObject<uint8_t>(GuestAddress(0)), 1) << "a refused access changed memory";
  EXPECT_TRUE(absl::IsOutOfRange(memory->Slice(GuestAddress(kMiB - 1), 2).status()));
}

// Rings are shared with a running guest: an index must never be seen half old and half new.
TEST(GuestMemoryTest, AlignedValuesAreNeverSeenTorn) {
  const auto memory = MakeMemory(kMiB);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 0; i < 100000; ++i) {
      (void)memory->WriteObject<uint64_t>(GuestAddress(64), i % 2 == 0 ? 0 : ~uint64_t{0});
    }
    done = true;
  });
  while (!done) {
    const uint64_t value = *memory->ReadObject<uint64_t>(GuestAddress(64));
    ASSERT_TRUE(value == 0 || value == ~uint64_t{0}) << value;
  }
  writer.join();
}

}  // namespace
}  // namespace ferrite
