// What is known of the writes to a disk that moves, and who waits for them; tests/migration/disk_move_test.cc moves
// one.
#include "vmm/move/disk_part.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "devices/block/disk_image.h"
#include "memory/page_bitmap.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_disks.h"
#include "tests/fakes/short_directory.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr uint64_t kBytes = (uint64_t{1} << 20) + 512;  // no whole pages
constexpr uint64_t kPages = ((uint64_t{1} << 20) + kDiskUnitBytes) / 4096;

class DiskPartTest : public testing::Test {
 protected:
  void SetUp() override {
    // Data in the second 64 KiB, and in the last 512 bytes.
    const Fd fd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(fd.get(), kBytes), 0);
    const std::string data(65536, 'd');
    ASSERT_EQ(pwrite(fd.get(), data.data(), data.size(), 65536), 65536);
    ASSERT_EQ(pwrite(fd.get(), data.data(), 512, kBytes - 512), 512);
    auto image = DiskImage::Create(path_, /*read_only=*/false);
    ASSERT_TRUE(image.ok()) << image.status();
    disks_ = std::make_unique<FakeDisks>(*std::move(image));
    part_ = std::make_unique<DiskPart>(*disks_, disks_->List()[0], clock_);
  }
  void TearDown() override {
    part_.reset();
    EXPECT_FALSE(disks_->has_witness());
  }

  void Write(uint64_t offset, uint64_t bytes) {
    ASSERT_EQ(disks_->Write(offset, std::string(bytes, 'w')).ToString(), "OK");
  }
  // "16 17": the pages that were written since the last call.
  std::string Dirty() {
    PageBitmap dirty(kPages);
    EXPECT_EQ(part_->CollectDirty(0, dirty).ToString(), "OK");
    return Text(dirty);
  }
  static std::string Text(const PageBitmap& pages) {
    std::string text;
    for (uint64_t page = 0; page < pages.pages(); ++page) {
      text += pages.Test(page) ? (text.empty() ? "" : " ") + std::to_string(page) : "";
    }
    return text;
  }
  // Writes on a thread; the write waits when this returns.
  Thread WriteThatWaits(uint64_t offset) {
    const uint64_t held = disks_->held_writes();
    Thread thread = StartOrDie("writer", [this, offset] { Write(offset, 512); });
    while (disks_->held_writes() == held) {
      std::this_thread::yield();
    }
    return thread;
  }

  FakeClock clock_;
  ShortDirectory directory_;
  const std::string path_ = directory_ / "root.img";
  std::unique_ptr<FakeDisks> disks_;
  std::unique_ptr<DiskPart> part_;
};

TEST_F(DiskPartTest, OffersWholeUnits) {
  ASSERT_EQ(part_->regions().size(), 1u);
  const migration::MachineSpec::Region region = part_->regions()[0];
  EXPECT_EQ(region.kind, migration::RegionKind::kDisk);
  EXPECT_EQ(region.name, "root");
  EXPECT_EQ(region.bytes, kPages * 4096);
  EXPECT_EQ(region.page_bytes, kDiskUnitBytes);
  EXPECT_EQ(part_->name(), "disk root");
  EXPECT_TRUE(part_->mirrored());
  part_->Decline();
  EXPECT_TRUE(part_->regions().empty());
  EXPECT_FALSE(part_->mirrored());
}

TEST_F(DiskPartTest, EveryPageThatAWriteTouchesIsFound) {
  Write(0, 512);
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_EQ(Dirty(), "") << "what was written before is read with the rest";
  Write(4096, 4096);
  Write(3 * 4096 - 512, 1024);
  Write(kBytes - 512, 512);
  EXPECT_EQ(Dirty(), "1 2 3 256");
  EXPECT_EQ(Dirty(), "");
  part_->StopTracking();
  Write(0, 512);
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_EQ(Dirty(), "");
}

TEST_F(DiskPartTest, HolesAreSkippedAndWhatIsBehindTheEndIs) {
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  PageBitmap skipped(kPages);
  ASSERT_EQ(part_->AddSkipped(0, skipped).ToString(), "OK");
  EXPECT_TRUE(skipped.Test(0));
  EXPECT_FALSE(skipped.Test(16));
  EXPECT_FALSE(skipped.Test(31));
  EXPECT_TRUE(skipped.Test(32));
  EXPECT_FALSE(skipped.Test(256)) << "it has the last bytes";
}

TEST_F(DiskPartTest, OneThatIsFollowedAlreadyIsRefused) {
  DiskPart other(*disks_, disks_->List()[0]);
  ASSERT_EQ(other.StartTracking().ToString(), "OK");
  EXPECT_FALSE(part_->StartTracking().ok());
  Write(0, 512);
  PageBitmap dirty(kPages);
  ASSERT_EQ(other.CollectDirty(0, dirty).ToString(), "OK");
  EXPECT_EQ(dirty.Count(), 1u);
}

TEST_F(DiskPartTest, WriterWaitsForTheDeliveryOfWhatWasCollectedAfterIt) {
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_TRUE(part_->SetBlocking(true));
  Thread first = WriteThatWaits(0);
  part_->Delivered();  // nothing that was collected
  EXPECT_EQ(Dirty(), "0");
  Thread second = WriteThatWaits(4096);
  part_->Delivered();
  first.Join();  // or this never ends
  EXPECT_EQ(Dirty(), "1");
  part_->Delivered();
  second.Join();
}

TEST_F(DiskPartTest, AllAreAnsweredWhenItBlocksNoMore) {
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_TRUE(part_->SetBlocking(true));
  Thread first = WriteThatWaits(0);
  EXPECT_EQ(Dirty(), "0");
  Thread second = WriteThatWaits(4096);
  part_->SetBlocking(false);
  first.Join();
  second.Join();
  Write(8192, 512);
  EXPECT_EQ(Dirty(), "1 2");
  EXPECT_TRUE(part_->SetBlocking(true));
  Thread third = WriteThatWaits(0);
  part_->StopTracking();
  third.Join();
}

TEST_F(DiskPartTest, WriterThatHasWaitedForLongIsLetGoAlone) {
  constexpr absl::Duration kLong = absl::Seconds(1);
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_EQ(part_->LetGo(clock_.Now()), MonotonicTime::InfiniteFuture());
  EXPECT_TRUE(part_->SetBlocking(true));
  const MonotonicTime start = clock_.Now();
  Thread first = WriteThatWaits(0);
  EXPECT_EQ(Dirty(), "0") << "it is on its way";
  clock_.Advance(kLong / 2);
  Thread second = WriteThatWaits(4096);
  EXPECT_EQ(part_->LetGo(start - absl::Nanoseconds(1)), start);
  EXPECT_EQ(part_->LetGo(start), start + kLong / 2);
  first.Join();  // or this never ends
  EXPECT_EQ(part_->LetGo(start), start + kLong / 2) << "the second one waits";
  Thread third = WriteThatWaits(8192);
  EXPECT_EQ(Dirty(), "1 2") << "it is followed all the same";
  part_->Delivered();
  second.Join();
  third.Join();
  EXPECT_EQ(part_->LetGo(clock_.Now()), MonotonicTime::InfiniteFuture());
}

// More than are answered at once.
TEST_F(DiskPartTest, ManyAreLetGo) {
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_TRUE(part_->SetBlocking(true));
  std::vector<Thread> writers;
  for (uint64_t i = 0; i < 200; ++i) {
    writers.push_back(WriteThatWaits(4096));
  }
  EXPECT_EQ(part_->LetGo(clock_.Now()), MonotonicTime::InfiniteFuture());
  for (Thread& writer : writers) {
    writer.Join();
  }
}

// As in a move: one thread lets go while another one collects, and what arrived is told.
TEST_F(DiskPartTest, WritersAreLetGoWhileTheyAreCollected) {
  ASSERT_EQ(part_->StartTracking().ToString(), "OK");
  EXPECT_TRUE(part_->SetBlocking(true));
  std::atomic<bool> over = false;
  Thread watch = StartOrDie("watch", [&] {
    while (!over) {
      (void)part_->LetGo(clock_.Now());
    }
  });
  Thread writer = StartOrDie("writer", [&] {
    for (int i = 0; i < 2000; ++i) {
      Write(4096, 512);
    }
  });
  for (int i = 0; i < 200; ++i) {
    (void)Dirty();
  }
  writer.Join();
  over = true;
  watch.Join();
}

}  // namespace
}  // namespace ferrite
