// MemoryRegion::Lock(). Apart from the other tests since the sanitizers turn mlock(2) into nothing.

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "memory/memory_region.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::unique_ptr<MemoryRegion> MakeRegion(uint64_t bytes, MemoryBacking backing) {
  auto region = MemoryRegion::Create("ram-test", GuestAddress(0), bytes, backing);
  EXPECT_TRUE(region.ok()) << region.status();
  return region.ok() ? *std::move(region) : nullptr;
}

class LockedRegionTest : public testing::TestWithParam<MemoryBacking> {};

INSTANTIATE_TEST_SUITE_P(Backings, LockedRegionTest, testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const auto& info) { return std::string(MemoryBackingName(info.param)); });

TEST_P(LockedRegionTest, LocksAndUnlocks) {
  // Less than the 8 MiB that everyone may lock.
  const auto region = MakeRegion(kMiB, GetParam());
  const absl::Status status = region->Lock();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*region->ResidentBytes(), kMiB);
  EXPECT_EQ(*region->Discard(0, 512 * 1024), 512 * 1024u) << "locked memory can be given back, too";
  EXPECT_EQ(region->guest_mapping()[0], 0);
  EXPECT_TRUE(region->Unlock().ok());
}

// Runs `body` with a limit of `bytes` of locked memory, also as root.
template <typename Body>
void WithMemlockLimit(rlim_t bytes, Body body) {
  struct rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &before), 0);
  struct rlimit limit = before;
  limit.rlim_cur = bytes;
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
  // Capabilities belong to the thread.
  std::thread without_capability([&body] {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {};
    ASSERT_EQ(syscall(SYS_capget, &header, data), 0);
    data[CAP_IPC_LOCK / 32].effective &= ~(1u << (CAP_IPC_LOCK % 32));
    ASSERT_EQ(syscall(SYS_capset, &header, data), 0);
    body();
  });
  without_capability.join();
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &before), 0);
}

TEST_P(LockedRegionTest, LockBeyondTheLimitSaysWhatTheLimitIsAndHowToRaiseIt) {
  const auto region = MakeRegion(8 * kMiB, GetParam());
  WithMemlockLimit(65536, [&region] {
    const absl::Status status = region->Lock();
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.message(), absl::StrCat("lock 8388608 bytes of memory ram-test (RLIMIT_MEMLOCK is 65536 bytes; "
                                             "raise it with `ulimit -l unlimited` or LimitMEMLOCK=infinity, or grant "
                                             "CAP_IPC_LOCK): ",
                                             std::strerror(ENOMEM)));
  });
}

}  // namespace
}  // namespace ferrite
