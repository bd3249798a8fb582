// Guest-physical space: the regions of RAM, and bounds-checked access for devices and loaders.
#ifndef FERRITE_MEMORY_GUEST_MEMORY_H_
#define FERRITE_MEMORY_GUEST_MEMORY_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/guest_address.h"
#include "memory/memory_region.h"

namespace ferrite {

// RAM starts at 0 and leaves this hole for devices; what does not fit below it goes to 4 GiB and up.
inline constexpr GuestAddress kMmioHoleStart{0xc000'0000};
inline constexpr GuestAddress kMmioHoleEnd{0x1'0000'0000};
// The largest guest: 46 bits of physical address are what the smallest of the hosts offer.
inline constexpr uint64_t kMaxGuestMemoryBytes = uint64_t{1} << 42;

// Where a guest of `bytes` has its RAM: "ram-low" at 0 and, for more than 3 GiB, "ram-high" at 4 GiB.
struct MemoryPlace {
  const char* name;
  GuestAddress base;
  uint64_t bytes;
};
std::vector<MemoryPlace> MemoryLayout(uint64_t bytes);

// The guest's RAM. Regions are fixed once made.
//
// Threads: any. The guest changes the same memory at any time, so a value that is checked is first copied: Read() it
// once, never look twice. Accesses of 1, 2, 4 and 8 aligned bytes are single loads (acquire) and stores (release).
//
// Errors: every access outside of RAM is OUT_OF_RANGE with the address and length; nothing was copied. Read, Write and
// Fill of no bytes are OK everywhere. A page that the hardware lost is DATA_LOSS, and listed; what came before it was
// copied.
class GuestMemory {
 public:
  // A region for each place of MemoryLayout(). `bytes` is a multiple of the host's page size.
  static absl::StatusOr<std::unique_ptr<GuestMemory>> Create(uint64_t bytes, MemoryBacking backing);
  explicit GuestMemory(std::vector<std::unique_ptr<MemoryRegion>> regions);

  std::span<const std::unique_ptr<MemoryRegion>> regions() const { return regions_; }
  uint64_t total_bytes() const;
  // MemoryRegion::HugeBytes() of those regions that may have huge pages; what cannot be told counts as none.
  uint64_t HugeBytes() const;

  // The region that holds `address`, or null.
  MemoryRegion* Find(GuestAddress address) const;

  absl::Status Read(GuestAddress address, std::span<uint8_t> out) const;
  absl::Status Write(GuestAddress address, std::span<const uint8_t> in);
  absl::Status Fill(GuestAddress address, uint8_t value, uint64_t bytes);

  template <typename T>
  absl::StatusOr<T> ReadObject(GuestAddress address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (absl::Status status = Read(address, {reinterpret_cast<uint8_t*>(&value), sizeof(T)}); !status.ok()) {
      return status;
    }
    return value;
  }
  template <typename T>
  absl::Status WriteObject(GuestAddress address, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return Write(address, {reinterpret_cast<const uint8_t*>(&value), sizeof(T)});
  }

  // Host memory of [address, address + bytes), for I/O without a copy; it must lie in one region. Whoever writes to it
  // calls MarkWritten() when the bytes are there: a mark that comes before them can be collected without them.
  absl::StatusOr<std::span<uint8_t>> Slice(GuestAddress address, uint64_t bytes) const;
  // Has `fill` write to a Slice(), and marks it, also when `fill` failed.
  absl::Status WriteInPlace(GuestAddress address, uint64_t bytes,
                            absl::FunctionRef<absl::Status(std::span<uint8_t>)> fill);

  // Runs `touch`, which loads and stores in slices and does nothing else (TouchMemory()). DATA_LOSS when it hit a lost
  // page, which is listed then; UNAVAILABLE when the host has no page to give for what it hit.
  absl::Status Touch(absl::FunctionRef<void()> touch) const;

  // Looks at the host page behind `host`, an address in a region's mappings whose use ended in SIGBUS or EFAULT.
  // If it is lost, it is listed, and its guest-physical address is returned. Of hugetlbfs the whole huge page is lost.
  std::optional<GuestAddress> FindLost(uintptr_t host) const;
  // The same for all pages behind `bytes`, of which a system call said EFAULT. Returns whether one is lost.
  bool FindLost(std::span<const uint8_t> bytes) const;
  // The guest-physical addresses of all lost host pages, ascending.
  std::vector<GuestAddress> LostPages() const;
  // Of those that are hidden (MemoryRegion::HideLost()).
  std::vector<GuestAddress> HiddenPages() const;
  // Gives the lost pages back: they are good, and zero, when they are used again.
  absl::Status DiscardLost();
  // Tells `listener` of each page that is new in the list, on the thread that found it. Set before there are others.
  void SetLostListener(std::function<void(GuestAddress)> listener) { lost_listener_ = std::move(listener); }

  // The range must be RAM (as Slice() found it to be).
  void MarkWritten(GuestAddress address, uint64_t bytes);

 private:
  // Calls `visit(region, offset, bytes)` for each piece of [address, address + bytes), or for none and fails.
  template <typename Visit>
  absl::Status ForEachPiece(GuestAddress address, uint64_t bytes, Visit visit) const;
  absl::Status FoundLost(uintptr_t host) const;

  std::function<void(GuestAddress)> lost_listener_;
  std::vector<std::unique_ptr<MemoryRegion>> regions_;
};

}  // namespace ferrite

#endif  // FERRITE_MEMORY_GUEST_MEMORY_H_
