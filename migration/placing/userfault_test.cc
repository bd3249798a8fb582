#include "migration/placing/userfault.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/open_userfault.h"
#include "base/poll.h"
#include "base/thread.h"
#include "memory/guest_address.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// None that any kernel has.
constexpr uint64_t kUnknownFeature = uint64_t{1} << 62;

class UserfaultTest : public testing::Test {
 protected:
  const UserfaultOpener counted_ = [this] {
    ++opened_;
    return OpenUserfault();
  };
  int opened_ = 0;
};

TEST_F(UserfaultTest, OneDescriptorIsEnoughForAKernelThatHasAll) {
  const auto userfault = Userfault::Create(counted_, /*wanted=*/0);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  EXPECT_EQ(opened_, 1);
}

TEST_F(UserfaultTest, WhatTheKernelLacksIsNotAskedFor) {
  const auto all = Userfault::Create(OpenUserfault);
  ASSERT_TRUE(all.ok()) << all.status();
  const auto userfault = Userfault::Create(counted_, Userfault::WantedFeatures() | kUnknownFeature);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  EXPECT_EQ(opened_, 2);
  const UserfaultFeatures& features = (*userfault)->features();
  EXPECT_EQ(features.missing_shmem, (*all)->features().missing_shmem);
  EXPECT_EQ(features.missing_hugetlb, (*all)->features().missing_hugetlb);
  EXPECT_EQ(features.minor_shmem, (*all)->features().minor_shmem);
  EXPECT_EQ(features.minor_hugetlb, (*all)->features().minor_hugetlb);
  EXPECT_EQ(features.poison, (*all)->features().poison);
  EXPECT_EQ(features.thread_id, (*all)->features().thread_id);
  EXPECT_TRUE(features.missing_shmem) << "Linux 4.11";
}

TEST_F(UserfaultTest, OpenersErrorIsTheResult) {
  const absl::Status none = absl::ResourceExhaustedError("userfaultfd: there is none today");
  EXPECT_EQ(Userfault::Create([&]() -> absl::StatusOr<Fd> { return none; }).status(), none);
}

TEST_F(UserfaultTest, DescriptorThatSomebodyHasUsedUpIsRefused) {
  const auto used = Userfault::Create(OpenUserfault);
  ASSERT_TRUE(used.ok()) << used.status();
  const auto userfault = Userfault::Create([&]() -> absl::StatusOr<Fd> { return Fd(dup((*used)->fd())); });
  EXPECT_TRUE(absl::IsInvalidArgument(userfault.status())) << userfault.status();
}

// A range of memory, of which each descriptor has a share.
class DividedTest : public testing::Test {
 protected:
  static constexpr size_t kDescriptors = 3;
  static constexpr uint64_t kShare = uint64_t{4} << 20;
  static constexpr uint64_t kBytes = kDescriptors * kShare + (uint64_t{2} << 20);

  void SetUp() override {
    auto userfault = Userfault::Create(OpenUserfault, Userfault::WantedFeatures(), kDescriptors);
    ASSERT_TRUE(userfault.ok()) << userfault.status();
    userfault_ = *std::move(userfault);
    ASSERT_EQ(userfault_->descriptors(), kDescriptors);
    auto memory = Mapping::Create("memory", kBytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, /*alignment=*/2 << 20);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    userfault_->Divide(all(), kPageBytes);
    ASSERT_EQ(userfault_->Register(all(), /*minor=*/false), absl::OkStatus());
  }
  std::span<uint8_t> all() const { return {memory_.data(), memory_.size()}; }
  std::span<uint8_t> Pages(uint64_t offset, uint64_t pages) const { return all().subspan(offset, pages * kPageBytes); }
  // The descriptor at which somebody's fault on what is there arrives.
  size_t AwaitFault(uint64_t offset) {
    std::array<pollfd, kDescriptors> polled;
    for (size_t i = 0; i < kDescriptors; ++i) {
      polled[i] = {.fd = userfault_->fd(i), .events = POLLIN, .revents = 0};
    }
    EXPECT_EQ(PollFor(polled, absl::Seconds(30)), 1) << "at " << offset;
    for (size_t i = 0; i < kDescriptors; ++i) {
      std::array<Fault, 4> faults;
      const auto count = userfault_->Read(faults, i);
      EXPECT_TRUE(count.ok()) << count.status();
      if (count.value_or(0) == 1) {
        EXPECT_EQ(faults[0].address, reinterpret_cast<uint64_t>(memory_.data() + offset));
        return i;
      }
    }
    return kDescriptors;
  }
  // Two that read the pages on both sides of the border of two shares are woken by `place`, and find `byte`.
  void ExpectBothWoken(uint64_t border, uint8_t byte, absl::FunctionRef<absl::Status(std::span<uint8_t>)> place) {
    std::array<uint8_t, 2> got = {1, 1};
    Thread below = StartOrDie("below", [&] { got[0] = memory_.data()[border - kPageBytes]; });
    EXPECT_EQ(AwaitFault(border - kPageBytes), border / kShare - 1);
    Thread above = StartOrDie("above", [&] { got[1] = memory_.data()[border]; });
    EXPECT_EQ(AwaitFault(border), border / kShare);
    EXPECT_EQ(place(Pages(border - 2 * kPageBytes, 4)), absl::OkStatus());
    below.Join();
    above.Join();
    EXPECT_EQ(got, (std::array{byte, byte}));
  }

  Mapping memory_;
  std::unique_ptr<Userfault> userfault_;
};

TEST_F(DividedTest, FaultComesWhereItsShareIs) {
  struct Place {
    uint64_t offset;
    size_t descriptor;
  };
  for (const Place& place :
       {Place{0, 0}, {kShare - kPageBytes, 0}, {kShare, 1}, {2 * kShare, 2}, {kBytes - kPageBytes, 2}}) {
    Thread reader = StartOrDie("reader", [&] { (void)*static_cast<volatile uint8_t*>(memory_.data() + place.offset); });
    EXPECT_EQ(AwaitFault(place.offset), place.descriptor);
    EXPECT_EQ(userfault_->ZeroPage(Pages(place.offset, 1), kPageBytes), absl::OkStatus());
    reader.Join();
  }
}

TEST_F(DividedTest, WhatLiesInTwoSharesIsPlacedInBoth) {
  const std::vector<uint8_t> bytes(4 * kPageBytes, 0x5a);
  ExpectBothWoken(kShare, 0x5a, [&](std::span<uint8_t> range) -> absl::Status {
    uint64_t placed = 0;
    absl::Status status = userfault_->Copy(range, bytes.data(), kPageBytes, placed);
    EXPECT_EQ(placed, range.size());
    return status;
  });
  EXPECT_EQ(memory_.data()[kShare - 2 * kPageBytes], 0x5a);
  EXPECT_EQ(memory_.data()[kShare + 2 * kPageBytes - 1], 0x5a);
  ExpectBothWoken(2 * kShare, 0, [&](std::span<uint8_t> range) { return userfault_->ZeroPage(range, kPageBytes); });
}

TEST_F(DividedTest, WhatLiesInTwoSharesChangesHandsInBoth) {
  if (!userfault_->features().move) {
    GTEST_SKIP() << "the kernel has no UFFDIO_MOVE";
  }
  auto source = Mapping::Create("source", 4 * kPageBytes, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_TRUE(source.ok()) << source.status();
  std::fill_n(source->data(), source->size(), uint8_t{0x33});
  ExpectBothWoken(kShare, 0x33, [&](std::span<uint8_t> range) {
    EXPECT_EQ(userfault_->Move(range, source->data()), range.size());
    return absl::OkStatus();
  });
}

TEST_F(DividedTest, WakeIsForBoth) {
  // The memory is the kernel's before they are woken, who so find zeros.
  ExpectBothWoken(kShare, 0, [&](std::span<uint8_t>) { return userfault_->Unregister(all()); });
}

TEST_F(UserfaultTest, SharesAreWholePagesOfTheHost) {
  const auto userfault = Userfault::Create(counted_, /*wanted=*/0, /*descriptors=*/4);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  EXPECT_EQ(opened_, 4);
  // Each page of 1 GiB would be in two.
  const auto memory = Mapping::Create("memory", uint64_t{3} << 30, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
                                      uint64_t{1} << 30);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const std::span<uint8_t> all(memory->data(), memory->size());
  (*userfault)->Divide(all, uint64_t{1} << 30);
  ASSERT_EQ((*userfault)->Register(all, /*minor=*/false), absl::OkStatus());
  Thread reader = StartOrDie("reader", [&] { (void)*static_cast<volatile uint8_t*>(all.data() + (all.size() - 1)); });
  pollfd polled{.fd = (*userfault)->fd(2), .events = POLLIN, .revents = 0};
  EXPECT_EQ(PollFor({&polled, 1}, absl::Seconds(30)), 1);
  EXPECT_EQ((*userfault)->Unregister(all), absl::OkStatus());
}

TEST_F(UserfaultTest, FewerDescriptorsAreNoError) {
  const auto userfault = Userfault::Create(
      [this]() -> absl::StatusOr<Fd> {
        return opened_ == 2 ? absl::ResourceExhaustedError("no more descriptors") : counted_();
      },
      /*wanted=*/0, /*descriptors=*/4);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  EXPECT_EQ((*userfault)->descriptors(), 2u);
}

}  // namespace
}  // namespace ferrite::migration
