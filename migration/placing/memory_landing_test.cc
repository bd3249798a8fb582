// The memory of a guest that comes, with a userfaultfd of the kernel's and a thread that reads it as a guest would.
#include "migration/placing/memory_landing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/open_userfault.h"
#include "base/poll.h"
#include "base/thread.h"
#include "memory/memory_region.h"
#include "migration/placing/request_queue.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPages = 16;
constexpr uint64_t kBytes = kPages * kPageBytes;
constexpr uint64_t kHighBase = 1 << 20;

class MemoryLandingTest : public testing::Test {
 protected:
  void SetUp() override {
    std::vector<std::unique_ptr<MemoryRegion>> regions;
    for (const uint64_t base : {uint64_t{0}, kHighBase}) {
      auto region = MemoryRegion::Create(base == 0 ? "low" : "high", GuestAddress(base), kBytes, MemoryBacking::kMemfd);
      ASSERT_TRUE(region.ok()) << region.status();
      regions.push_back(*std::move(region));
    }
    memory_.emplace(std::move(regions));
    landing_.emplace(*memory_, RealClock());
  }
  void Arm() {
    ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
    ASSERT_EQ(landing_->Arm(requests_, 0), absl::OkStatus());
  }

  uint8_t* At(size_t region, uint64_t page) {
    return landing_->region(region).guest_mapping().data() + page * kPageBytes;
  }
  // Waits until somebody faults on the page.
  void ExpectFault(size_t region, uint64_t page) {
    pollfd polled{.fd = landing_->userfault().fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(PollFor({&polled, 1}, absl::Seconds(30)), 1) << "nobody faulted on page " << page;
    std::array<Fault, 4> faults;
    const auto count = landing_->userfault().Read(faults);
    ASSERT_TRUE(count.ok()) << count.status();
    ASSERT_EQ(*count, 1u);
    EXPECT_EQ(faults[0].address, reinterpret_cast<uint64_t>(At(region, page)));
  }
  // A guest that reads what is not there, and waits for it.
  Thread StartReading(size_t region, uint64_t page) {
    Thread guest = StartOrDie("guest", [this, byte = At(region, page)] { got_ = *byte; });
    ExpectFault(region, page);
    return guest;
  }

  std::optional<GuestMemory> memory_;
  std::optional<MemoryLanding> landing_;
  RequestQueue requests_ = *RequestQueue::Create();
  uint8_t got_ = 0xee;
};

TEST_F(MemoryLandingTest, EachDifferenceIsNamed) {
  std::vector<MachineSpec::Region> same = {
      {.kind = RegionKind::kRam, .name = "low", .base = 0, .bytes = kBytes, .page_bytes = kPageBytes},
      {.kind = RegionKind::kRam, .name = "high", .base = kHighBase, .bytes = kBytes, .page_bytes = kPageBytes}};
  EXPECT_EQ(landing_->Check(same), absl::OkStatus());
  // The hosts' pages may differ, and the names.
  same[0].page_bytes = 2 << 20;
  same[1].name = "ram";
  EXPECT_EQ(landing_->Check(same), absl::OkStatus());
  const auto expect = [&](MachineSpec::Region second, absl::string_view said) {
    const absl::Status status = landing_->Check(std::vector<MachineSpec::Region>{same[0], std::move(second)});
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_EQ(status.message(), said);
  };
  MachineSpec::Region other = same[1];
  other.kind = RegionKind::kDisk;
  expect(other, "region ram is no memory at the source, but is here");
  other = same[1];
  other.base += kPageBytes;
  expect(other, "memory region high has 65536 bytes at 1052672 at the source, but 65536 at 1048576 here");
  other = same[1];
  other.bytes -= kPageBytes;
  expect(other, "memory region high has 61440 bytes at 1048576 at the source, but 65536 at 1048576 here");
}

TEST_F(MemoryLandingTest, NothingIsThereWhenItIsPrepared) {
  for (size_t region = 0; region < 2; ++region) {
    *At(region, 0) = 1;
    *At(region, kPages - 1) = 1;
    ASSERT_GT(*landing_->region(region).ResidentBytes(), 0u);
  }
  ASSERT_EQ(landing_->Prepare(), absl::OkStatus());
  for (size_t region = 0; region < 2; ++region) {
    EXPECT_EQ(*landing_->region(region).ResidentBytes(), 0u);
    EXPECT_EQ(landing_->placer(region).states().missing(), kPages);
  }
}

TEST_F(MemoryLandingTest, OpenersReasonIsWhyThereAreNoFaults) {
  const absl::Status none = absl::FailedPreconditionError("userfaultfd: not for you");
  EXPECT_EQ(landing_->OfferFaults([&]() -> absl::StatusOr<Fd> { return none; }), none);
  // The next offer is as good as the first.
  ASSERT_NO_FATAL_FAILURE(Arm());
}

TEST_F(MemoryLandingTest, OfferIsWithdrawnUnlessItWasTaken) {
  ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
  const int fd = landing_->userfault().fd();
  ASSERT_NE(fcntl(fd, F_GETFD), -1);
  landing_->WithdrawFaults();
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
  ASSERT_NO_FATAL_FAILURE(Arm());
  landing_->WithdrawFaults();
  Thread guest = StartReading(0, 1);
  landing_->LetGo();
}

TEST_F(MemoryLandingTest, WhoTouchesWhatIsMissingWaitsUntilItIsHereAndNobodyWhenAllIsSettled) {
  ASSERT_NO_FATAL_FAILURE(Arm());
  Thread guest = StartReading(1, 3);
  MemoryPlacer& placer = landing_->placer(1);
  const PageRun run{.first = 3, .count = 1};
  ASSERT_EQ(placer.Claim(run).run, run);
  const std::vector<uint8_t> bytes(kPageBytes, 0x5a);
  ASSERT_TRUE(placer.StageTarget(run, Showing::kAtOnce)->empty());
  ASSERT_EQ(placer.Publish(run, bytes.data()), absl::OkStatus());
  guest.Join();
  EXPECT_EQ(got_, 0x5a);
  for (size_t region = 0; region < 2; ++region) {
    ASSERT_TRUE(landing_->placer(region).PublishZero({.first = 0, .count = kPages}, Showing::kAtOnce).ok());
  }
  ASSERT_EQ(landing_->Settle(), absl::OkStatus());
  // Nobody answers faults any more.
  EXPECT_EQ(*At(0, 0), 0);
  EXPECT_EQ(*At(1, 4), 0);
  EXPECT_EQ(*At(1, 3), 0x5a);
}

TEST_F(MemoryLandingTest, WhoWaitsLooksAgainWhenWokenAndIsLetGoAtTheEnd) {
  ASSERT_NO_FATAL_FAILURE(Arm());
  Thread guest = StartReading(1, 7);
  ASSERT_EQ(landing_->WakeWaiting(), absl::OkStatus());
  ASSERT_NO_FATAL_FAILURE(ExpectFault(1, 7));
  landing_->LetGo();
  guest.Join();
  EXPECT_EQ(got_, 0);
  EXPECT_EQ(*At(0, 7), 0) << "of no region any more";
}

TEST_F(MemoryLandingTest, MemoryIsTakenInPieces) {
  const Placer& placer = landing_->placer(0);
  PageRun rest{100, 200'000};
  uint64_t next = rest.first;
  int pieces = 0;
  for (; rest.count > 0; ++pieces) {
    const PageRun piece = placer.TakePiece(rest);
    EXPECT_EQ(piece.first, next);
    next += piece.count;
    EXPECT_TRUE(next % 65536 == 0 || rest.count == 0) << next;
  }
  EXPECT_EQ(next, 200'100u);
  EXPECT_EQ(pieces, 4);
}

}  // namespace
}  // namespace ferrite::migration
