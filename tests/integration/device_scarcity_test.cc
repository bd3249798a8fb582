// Devices on the real loop, on a host that has no memory left at each of the places where some is taken for what a
// guest asks: the process lives, and all that the guest asked for is done once there is memory again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "devices/balloon/balloon.h"
#include "devices/block/async_io.h"
#include "devices/block/block.h"
#include "devices/block/disk_image.h"
#include "devices/rng/rng.h"
#include "tests/fakes/scarcity.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr uint64_t kSectors = 2048;
constexpr uint32_t kSegments = 24;  // more than a chain has room for in itself
constexpr uint8_t kUntouched = 0xee;

// What is refused, and for how long.
struct Shortage {
  const char* name;
  Refusals refusals;
  bool pauses;  // and the device is paused meanwhile
};

constexpr Shortage kShortages[] = {{"One", Refusals::kOne, false},
                                   {"All", Refusals::kAllFromThere, false},
                                   {"AllAndAPause", Refusals::kAllFromThere, true}};

// A device that is asked for the same again and again, each time with another allocation that fails.
class DeviceScarcityTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loop = EventLoop::Create("devices");
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
  }

  bool Await(const std::function<bool()>& done) {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (!done()) {
      if (MonotonicTime::Now() > deadline) {
        return false;
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    return true;
  }

  // `ask` makes chains available to a device that was made just now, and `done` says whether all of that is done.
  void RefuseEach(const std::function<std::unique_ptr<virtio::Device>()>& make, const std::vector<uint16_t>& queues,
                  const std::function<void()>& ask, const std::function<bool()>& done,
                  const std::function<void()>& check) {
    const Plenty plenty;  // this thread's part is the guest's, and the test's
    for (const Shortage& shortage : kShortages) {
      uint64_t most = 0;
      for (uint64_t nth = 1, refused = 1; refused > 0; ++nth) {
        SCOPED_TRACE(absl::StrCat(shortage.name, ", from the ", nth, ". on"));
        ASSERT_LT(nth, 500u) << "memory is taken without end";
        harness_.reset();
        harness_ = std::make_unique<VirtioHarness>(uint64_t{128} << 20, loop_.get());
        harness_->Attach(make());
        harness_->Start(harness_->driver().OfferedFeatures(), kBlockQueueSize);
        ask();
        Scarcity scarcity(Scarce::kMemory, nth, shortage.refusals);
        for (const uint16_t queue : queues) {
          harness_->Kick(queue);
        }
        ASSERT_TRUE(Await([&] { return done() || (scarcity.refused() > 0); }));
        if (shortage.pauses) {
          // Waits for what is in flight, and for no memory.
          harness_->transport().Quiesce();
        }
        scarcity.End();
        refused = scarcity.refused();
        most = refused > 0 ? nth : most;
        if (shortage.pauses) {
          harness_->transport().Resume();
        }
        ASSERT_TRUE(Await(done)) << "forgotten";
        EXPECT_FALSE(harness_->driver().needs_reset());
        check();
      }
      EXPECT_GE(most, 3u) << "nothing was refused: what is this test about?";
    }
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<VirtioHarness> harness_;
};

class BlockScarcityTest : public DeviceScarcityTest, public testing::WithParamInterface<AsyncIo::Engine> {
 protected:
  void SetUp() override {
    DeviceScarcityTest::SetUp();
    std::string path = "/tmp/ferrite-scarce-XXXXXX";
    file_ = Fd(mkostemp(path.data(), O_CLOEXEC));
    ASSERT_TRUE(file_.valid());
    path_ = path;
    if (const auto io = AsyncIo::Create(*loop_, kBlockQueueSize, GetParam());
        !io.ok() && GetParam() == AsyncIo::Engine::kIoUring) {
      GTEST_SKIP() << io.status();
    }
  }
  void TearDown() override {
    harness_.reset();
    unlink(path_.c_str());
  }

  std::unique_ptr<virtio::Device> Make() {
    FERRITE_CHECK(ftruncate(file_.get(), kSectors * kSectorBytes) == 0);
    auto image = DiskImage::Create(path_, /*read_only=*/false);
    FERRITE_CHECK(image.ok());
    auto io = AsyncIo::Create(*loop_, kBlockQueueSize, GetParam());
    FERRITE_CHECK(io.ok());
    return std::make_unique<Block>("root", *std::move(image), *std::move(io));
  }

  ChainBuilder Request(uint32_t type, uint64_t sector) {
    auto chain = harness_->queue(0).Chain();
    chain.ReadableObject(BlockRequestHeader{.type = type, .sector = sector});
    return chain;
  }
  void Submit(ChainBuilder chain, uint8_t expected) {
    const GuestAddress status = harness_->arena().Place(std::vector<uint8_t>{kUntouched});
    chain.WritableAt(status, 1).SubmitIndirect();
    statuses_.emplace_back(status, expected);
  }

  Fd file_;
  std::string path_;
  std::vector<std::pair<GuestAddress, uint8_t>> statuses_;
};

TEST_P(BlockScarcityTest, EveryRequestIsAnsweredAsItShouldBe) {
  uint8_t round = 0;
  std::vector<GuestAddress> read;
  const auto ask = [&] {
    ++round;
    statuses_.clear();
    read.clear();
    const std::string before(kSegments * kSectorBytes, static_cast<char>(round));
    ASSERT_EQ(pwrite(file_.get(), before.data(), before.size(), 0), static_cast<ssize_t>(before.size()));
    ChainBuilder reads = Request(kBlockRead, 0);
    ChainBuilder writes = Request(kBlockWrite, 100);
    for (uint32_t i = 0; i < kSegments; ++i) {
      reads.Writable(kSectorBytes, &read.emplace_back());
      writes.Readable(std::vector<uint8_t>(kSectorBytes, static_cast<uint8_t>(round + i)));
    }
    Submit(std::move(reads), kBlockStatusOk);
    Submit(std::move(writes), kBlockStatusOk);
    Submit(Request(kBlockFlush, 0), kBlockStatusOk);
    std::vector<BlockRange> ranges;
    for (uint64_t i = 0; i < 16; ++i) {
      ranges.push_back({.sector = 512 + 16 * i, .sectors = 8});
    }
    Submit(
        std::move(Request(kBlockDiscard, 0)
                      .Readable({reinterpret_cast<const uint8_t*>(ranges.data()), ranges.size() * sizeof(BlockRange)})),
        kBlockStatusOk);
    Submit(std::move(Request(kBlockWriteZeroes, 0).ReadableObject(BlockRange{.sector = 400, .sectors = 8})),
           kBlockStatusOk);
    Submit(std::move(Request(kBlockGetId, 0).Writable(kBlockIdBytes)), kBlockStatusOk);
    // What is refused at once, and what the file refuses.
    Submit(std::move(Request(kBlockRead, kSectors).Writable(kSectorBytes)), kBlockStatusIoError);
    Submit(std::move(Request(kBlockRead, kSectors - 1).Writable(kSectorBytes)), kBlockStatusIoError);
    ASSERT_EQ(ftruncate(file_.get(), (kSectors - 1) * kSectorBytes), 0);
  };
  const auto done = [&] { return harness_->queue(0).used_index() == statuses_.size(); };
  const auto check = [&] {
    for (size_t i = 0; i < statuses_.size(); ++i) {
      EXPECT_EQ(harness_->arena().Read(statuses_[i].first, 1)[0], statuses_[i].second) << "request " << i;
    }
    std::string written(kSegments * kSectorBytes, '?');
    ASSERT_EQ(pread(file_.get(), written.data(), written.size(), 100 * kSectorBytes),
              static_cast<ssize_t>(written.size()));
    for (uint32_t i = 0; i < kSegments; ++i) {
      EXPECT_EQ(harness_->arena().Read(read[i], kSectorBytes), std::vector<uint8_t>(kSectorBytes, round)) << i;
      EXPECT_EQ(written.substr(i * kSectorBytes, kSectorBytes), std::string(kSectorBytes, static_cast<char>(round + i)))
          << i;
    }
  };
  RefuseEach([this] { return Make(); }, {0}, ask, done, check);
}

INSTANTIATE_TEST_SUITE_P(Engines, BlockScarcityTest,
                         testing::Values(AsyncIo::Engine::kIoUring, AsyncIo::Engine::kThreads), [](const auto& info) {
                           return info.param == AsyncIo::Engine::kIoUring ? "IoUring" : "Threads";
                         });

TEST_F(DeviceScarcityTest, RandomNumbersComeWhenThereIsMemory) {
  GuestAddress last;
  const auto ask = [&] {
    for (int chain = 0; chain < 3; ++chain) {
      ChainBuilder builder = harness_->queue(0).Chain();
      for (uint32_t i = 0; i < kSegments; ++i) {
        builder.Writable(64, &last);
      }
      builder.Submit();
    }
  };
  RefuseEach([] { return std::make_unique<Rng>(); }, {0}, ask, [&] { return harness_->queue(0).used_index() == 3; },
             [&] { EXPECT_NE(harness_->arena().Read(last, 64), std::vector<uint8_t>(64)); });
}

TEST_F(DeviceScarcityTest, BalloonTakesListsReportsAndStatisticsWhenThereIsMemory) {
  constexpr uint16_t kInflate = 0;
  constexpr uint16_t kStatistics = 2;
  constexpr uint16_t kReporting = 3;
  constexpr uint64_t kFirst = (uint64_t{96} << 20) / kPageBytes;
  Balloon* balloon = nullptr;
  const auto make = [&] {
    auto made = std::make_unique<Balloon>(harness_->memory(), 0);
    balloon = made.get();
    return made;
  };
  const auto ask = [&] {
    ChainBuilder list = harness_->queue(kInflate).Chain();
    ChainBuilder statistics = harness_->queue(kStatistics).Chain();
    ChainBuilder report = harness_->queue(kReporting).Chain();
    for (uint32_t i = 0; i < kSegments; ++i) {
      list.ReadableObject(static_cast<uint32_t>(kFirst + i));
      statistics.Readable(std::vector<uint8_t>(10, static_cast<uint8_t>(i)));
      report.WritableAt(GuestAddress((kFirst + 100 + 2 * i) * kPageBytes), kPageBytes);
    }
    list.Submit();
    statistics.Submit();
    report.Submit();
  };
  const auto done = [&] {
    return harness_->queue(kInflate).used_index() == 1 && harness_->queue(kReporting).used_index() == 1 &&
           balloon->statistics().has_value();
  };
  const auto check = [&] {
    EXPECT_EQ(balloon->statistics()->values.size(), kSegments);
    EXPECT_EQ(balloon->InflatedRanges(),
              (std::vector<BalloonPages::Range>{{GuestAddress(kFirst * kPageBytes), kSegments * kPageBytes}}));
    EXPECT_EQ(balloon->reclaimed(), 2 * kSegments * kPageBytes);
  };
  RefuseEach(make, {kInflate, kStatistics, kReporting}, ask, done, check);
}

}  // namespace
}  // namespace ferrite
