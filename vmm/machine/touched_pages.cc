// Source: AMD APM volume 2, 5.3 (long-mode page translation).
#include "vmm/machine/touched_pages.h"

#include <array>

#include "absl/status/statusor.h"

namespace ferrite {
namespace {

constexpr uint64_t kPresent = 1;
constexpr uint64_t kLarge = uint64_t{1} << 7;
constexpr uint64_t kAddressMask = 0x000f'ffff'ffff'f000;
constexpr uint64_t kLongModeActive = uint64_t{1} << 10;  // EFER.LMA
constexpr uint64_t kFiveLevels = uint64_t{1} << 12;      // CR4.LA57
constexpr int kBitsPerLevel = 9;
constexpr int kPageBits = 12;

}  // namespace

std::optional<GuestAddress> WalkPageTables(const GuestMemory& memory, const kvm_sregs& sregs, uint64_t address) {
  if ((sregs.efer & kLongModeActive) == 0) {
    return std::nullopt;
  }
  uint64_t entry = sregs.cr3;
  for (int level = (sregs.cr4 & kFiveLevels) != 0 ? 4 : 3; level >= 0; --level) {
    const int shift = kPageBits + level * kBitsPerLevel;
    const uint64_t index = address >> shift & ((uint64_t{1} << kBitsPerLevel) - 1);
    const absl::StatusOr<uint64_t> read =
        memory.ReadObject<uint64_t>(GuestAddress((entry & kAddressMask) + index * sizeof(uint64_t)));
    if (!read.ok() || (*read & kPresent) == 0) {
      return std::nullopt;
    }
    entry = *read;
    if (level == 0 || (level <= 2 && (entry & kLarge) != 0)) {
      const uint64_t inside = (uint64_t{1} << shift) - 1;
      return GuestAddress((entry & kAddressMask & ~inside) | (address & inside));
    }
  }
  return std::nullopt;
}

std::vector<GuestAddress> TouchedPages(const GuestMemory& memory, const kvm_regs& regs, const kvm_sregs& sregs) {
  std::vector<GuestAddress> pages;
  const auto add = [&](uint64_t address) {
    if (const std::optional<GuestAddress> found = WalkPageTables(memory, sregs, address); found.has_value()) {
      pages.emplace_back(found->value() / kPageBytes * kPageBytes);
    }
  };
  const std::array values = {regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp,
                             regs.r8,  regs.r9,  regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15};
  add(regs.rip);
  for (const uint64_t base : values) {
    add(base);
  }
  for (const uint64_t base : values) {
    for (const uint64_t index : values) {
      add(base + index);
    }
  }
  return pages;
}

}  // namespace ferrite
