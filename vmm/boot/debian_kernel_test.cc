// The loader on Debian's cloud kernel, the reference. The path comes as the first argument.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>

#include "base/pinned_file.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/boot_layout.h"
#include "vmm/boot/boot_loader.h"

namespace ferrite {
namespace {

std::string kernel_path;

constexpr uint64_t kMiB = 1 << 20;

absl::StatusOr<BootEntry> Load(GuestMemory& memory, const std::string& command_line) {
  auto file = PinnedFile::Find(kernel_path, PinnedFile::Links::kAll);
  if (!file.ok()) {
    return file.status();
  }
  const BootFile kernel{.file = *std::move(file), .content = std::nullopt};
  return LoadKernel(memory, {.kernel = &kernel, .command_line = command_line});
}

TEST(DebianKernelTest, LoadsByIts64BitEntry) {
  auto memory = GuestMemory::Create(128 * kMiB, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto entry = Load(**memory, "console=ttyS0");
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->protocol, BootProtocol::kLinux64);
  EXPECT_EQ(entry->rip % kPageBytes, 0x200u);
  EXPECT_GE(entry->rip, kKernelMin.value());
}

TEST(DebianKernelTest, DoesNotFitIntoALittleMachine) {
  auto memory = GuestMemory::Create(32 * kMiB, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto entry = Load(**memory, "");
  EXPECT_EQ(entry.status().code(), absl::StatusCode::kResourceExhausted) << entry.status();
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc != 2) {
    return 2;
  }
  ferrite::kernel_path = argv[1];
  return RUN_ALL_TESTS();
}
