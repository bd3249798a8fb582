#include "memory/guest_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/memory_limits.h"

namespace ferrite {
namespace {

absl::Status OutOfRange(GuestAddress address, uint64_t bytes) {
  return absl::OutOfRangeError(
      absl::StrCat("guest memory: ", bytes, " bytes at 0x", absl::Hex(address.value()), " are not RAM"));
}

// The parts of [address, address + bytes) that lie in `region`, from `address` on.
uint64_t BytesHere(const MemoryRegion& region, GuestAddress address, uint64_t bytes) {
  return std::min(bytes, region.bytes() - (address - region.base()));
}

template <typename T>
void LoadInto(const uint8_t* from, uint8_t* to) {
  TouchBeforeAtomic(from);
  const T value = __atomic_load_n(reinterpret_cast<const T*>(from), __ATOMIC_ACQUIRE);
  std::memcpy(to, &value, sizeof(value));
}

template <typename T>
void StoreFrom(const uint8_t* from, uint8_t* to) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  TouchBeforeAtomic(to);
  __atomic_store_n(reinterpret_cast<T*>(to), value, __ATOMIC_RELEASE);
}

bool IsAligned(const uint8_t* guest, uint64_t bytes) { return reinterpret_cast<uintptr_t>(guest) % bytes == 0; }

void CopyFromGuest(const uint8_t* guest, uint8_t* out, uint64_t bytes) {
  if (bytes == 8 && IsAligned(guest, 8)) {
    LoadInto<uint64_t>(guest, out);
  } else if (bytes == 4 && IsAligned(guest, 4)) {
    LoadInto<uint32_t>(guest, out);
  } else if (bytes == 2 && IsAligned(guest, 2)) {
    LoadInto<uint16_t>(guest, out);
  } else if (bytes == 1) {
    LoadInto<uint8_t>(guest, out);
  } else {
    std::memcpy(out, guest, bytes);
  }
}

void CopyToGuest(const uint8_t* in, uint8_t* guest, uint64_t bytes) {
  if (bytes == 8 && IsAligned(guest, 8)) {
    StoreFrom<uint64_t>(in, guest);
  } else if (bytes == 4 && IsAligned(guest, 4)) {
    StoreFrom<uint32_t>(in, guest);
  } else if (bytes == 2 && IsAligned(guest, 2)) {
    StoreFrom<uint16_t>(in, guest);
  } else if (bytes == 1) {
    StoreFrom<uint8_t>(in, guest);
  } else {
    std::memcpy(guest, in, bytes);
  }
}

std::vector<GuestAddress> AddressesOf(std::span<const std::unique_ptr<MemoryRegion>> regions,
                                      std::vector<uint64_t> (MemoryRegion::*offsets)() const) {
  std::vector<GuestAddress> pages;
  for (const auto& region : regions) {
    for (const uint64_t offset : ((*region).*offsets)()) {
      pages.push_back(region->base() + offset);
    }
  }
  return pages;
}

}  // namespace

std::vector<MemoryPlace> MemoryLayout(uint64_t bytes) {
  const uint64_t low = std::min(bytes, kMmioHoleStart.value());
  std::vector<MemoryPlace> places = {{"ram-low", GuestAddress(0), low}};
  if (bytes > low) {
    places.push_back({"ram-high", kMmioHoleEnd, bytes - low});
  }
  return places;
}

absl::StatusOr<std::unique_ptr<GuestMemory>> GuestMemory::Create(uint64_t bytes, MemoryBacking backing) {
  if (bytes == 0 || bytes > kMaxGuestMemoryBytes || bytes % HostPageBytes(backing) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("guest memory of ", bytes, " bytes: must be a multiple of ",
                                                   HostPageBytes(backing), " (", MemoryBackingName(backing),
                                                   ") and at most ", kMaxGuestMemoryBytes >> 40, " TiB"));
  }
  FERRITE_RETURN_IF_ERROR(CheckHugePageGroups(bytes, backing));
  std::vector<std::unique_ptr<MemoryRegion>> regions;
  for (const MemoryPlace& place : MemoryLayout(bytes)) {
    FERRITE_ASSIGN_OR_RETURN(auto region, MemoryRegion::Create(place.name, place.base, place.bytes, backing));
    regions.push_back(std::move(region));
  }
  return std::make_unique<GuestMemory>(std::move(regions));
}

GuestMemory::GuestMemory(std::vector<std::unique_ptr<MemoryRegion>> regions) : regions_(std::move(regions)) {
  CatchBusFaults();
  std::sort(regions_.begin(), regions_.end(), [](const auto& a, const auto& b) { return a->base() < b->base(); });
  for (size_t i = 1; i < regions_.size(); ++i) {
    FERRITE_CHECK(regions_[i - 1]->end() <= regions_[i]->base());
  }
}

uint64_t GuestMemory::total_bytes() const {
  uint64_t total = 0;
  for (const auto& region : regions_) {
    total += region->bytes();
  }
  return total;
}

uint64_t GuestMemory::HugeBytes() const {
  uint64_t bytes = 0;
  for (const auto& region : regions_) {
    const bool may_be_huge = region->thp() || region->host_page_bytes() > kPageBytes;
    bytes += may_be_huge ? region->HugeBytes().value_or(0) : 0;
  }
  return bytes;
}

MemoryRegion* GuestMemory::Find(GuestAddress address) const {
  for (const auto& region : regions_) {
    // One comparison that cannot overflow: below the base the difference wraps to a huge number.
    if (address - region->base() < region->bytes()) {
      return region.get();
    }
  }
  return nullptr;
}

template <typename Visit>
absl::Status GuestMemory::ForEachPiece(GuestAddress address, uint64_t bytes, Visit visit) const {
  MemoryRegion* region = Find(address);
  if (region != nullptr && BytesHere(*region, address, bytes) == bytes) {
    if (bytes > 0) {
      return visit(*region, address - region->base(), bytes);
    }
    return absl::OkStatus();
  }
  // Across regions that touch: first make sure that all of it is RAM, since an error must leave everything as it was.
  uint64_t checked = 0;
  while (checked < bytes) {
    const MemoryRegion* piece = Find(address + checked);
    if (piece == nullptr || (address + checked).value() < address.value()) {
      return OutOfRange(address, bytes);
    }
    checked += BytesHere(*piece, address + checked, bytes - checked);
  }
  uint64_t done = 0;
  while (done < bytes) {
    region = Find(address + done);
    const uint64_t here = BytesHere(*region, address + done, bytes - done);
    FERRITE_RETURN_IF_ERROR(visit(*region, address + done - region->base(), here));
    done += here;
  }
  return absl::OkStatus();
}

absl::Status GuestMemory::Read(GuestAddress address, std::span<uint8_t> out) const {
  uint8_t* to = out.data();
  return ForEachPiece(address, out.size(), [&](const MemoryRegion& region, uint64_t offset, uint64_t bytes) {
    const uint8_t* const from = region.guest_mapping().data() + offset;
    uint8_t* const piece = std::exchange(to, to + bytes);
    return Touch([=] { CopyFromGuest(from, piece, bytes); });
  });
}

absl::Status GuestMemory::Write(GuestAddress address, std::span<const uint8_t> in) {
  const uint8_t* from = in.data();
  return ForEachPiece(address, in.size(), [&](MemoryRegion& region, uint64_t offset, uint64_t bytes) {
    uint8_t* const to = region.guest_mapping().data() + offset;
    const uint8_t* const piece = std::exchange(from, from + bytes);
    const absl::Status status = Touch([=] { CopyToGuest(piece, to, bytes); });
    region.MarkWritten(offset, bytes);
    return status;
  });
}

absl::Status GuestMemory::Fill(GuestAddress address, uint8_t value, uint64_t bytes) {
  return ForEachPiece(address, bytes, [&](MemoryRegion& region, uint64_t offset, uint64_t length) {
    uint8_t* const to = region.guest_mapping().data() + offset;
    const absl::Status status = Touch([=] { std::memset(to, value, length); });
    region.MarkWritten(offset, length);
    return status;
  });
}

absl::StatusOr<std::span<uint8_t>> GuestMemory::Slice(GuestAddress address, uint64_t bytes) const {
  MemoryRegion* region = Find(address);
  if (region == nullptr || BytesHere(*region, address, bytes) < bytes) {
    return OutOfRange(address, bytes);
  }
  return region->guest_mapping().subspan(address - region->base(), bytes);
}

absl::Status GuestMemory::WriteInPlace(GuestAddress address, uint64_t bytes,
                                       absl::FunctionRef<absl::Status(std::span<uint8_t>)> fill) {
  FERRITE_ASSIGN_OR_RETURN(const std::span<uint8_t> to, Slice(address, bytes));
  const absl::Status filled = fill(to);
  MarkWritten(address, bytes);
  return filled;
}

void GuestMemory::MarkWritten(GuestAddress address, uint64_t bytes) {
  const absl::Status status = ForEachPiece(address, bytes, [](MemoryRegion& region, uint64_t offset, uint64_t length) {
    region.MarkWritten(offset, length);
    return absl::OkStatus();
  });
  FERRITE_CHECK(status.ok());
}

absl::Status GuestMemory::Touch(absl::FunctionRef<void()> touch) const {
  const std::optional<uintptr_t> hit = TouchMemory(touch);
  return hit.has_value() ? FoundLost(*hit) : absl::OkStatus();
}

absl::Status GuestMemory::FoundLost(uintptr_t host) const {
  const std::optional<GuestAddress> page = FindLost(host);
  return page.has_value()
             ? absl::DataLossError(absl::StrCat("guest memory: the host lost the page at 0x", absl::Hex(page->value())))
             : absl::UnavailableError(
                   absl::StrCat("guest memory: the host gives no page for 0x", absl::Hex(host), " of this process"));
}

std::optional<GuestAddress> GuestMemory::FindLost(uintptr_t host) const {
  for (const auto& region : regions_) {
    uint64_t offset = host - reinterpret_cast<uintptr_t>(region->guest_mapping().data());
    if (offset >= region->bytes()) {
      offset = host - reinterpret_cast<uintptr_t>(region->alias_mapping().data());
      if (offset >= region->alias_mapping().size()) {
        continue;
      }
    }
    const std::optional<bool> added = region->AddIfLost(offset);
    if (!added.has_value()) {
      return std::nullopt;
    }
    const GuestAddress page = region->base() + offset / region->host_page_bytes() * region->host_page_bytes();
    if (*added && lost_listener_) {
      lost_listener_(page);
    }
    return page;
  }
  return std::nullopt;
}

bool GuestMemory::FindLost(std::span<const uint8_t> bytes) const {
  bool found = false;
  auto at = reinterpret_cast<uintptr_t>(bytes.data());
  for (const uintptr_t end = at + bytes.size(); at < end; at = at / kPageBytes * kPageBytes + kPageBytes) {
    found |= FindLost(at).has_value();
  }
  return found;
}

std::vector<GuestAddress> GuestMemory::LostPages() const { return AddressesOf(regions_, &MemoryRegion::LostPages); }

std::vector<GuestAddress> GuestMemory::HiddenPages() const { return AddressesOf(regions_, &MemoryRegion::HiddenPages); }

absl::Status GuestMemory::DiscardLost() {
  for (const auto& region : regions_) {
    for (const uint64_t offset : region->LostPages()) {
      FERRITE_RETURN_IF_ERROR(region->Discard(offset, region->host_page_bytes()).status());
    }
  }
  return absl::OkStatus();
}

}  // namespace ferrite
