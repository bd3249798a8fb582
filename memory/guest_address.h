// Strong types for the numbers of guest memory.
#ifndef FERRITE_MEMORY_GUEST_ADDRESS_H_
#define FERRITE_MEMORY_GUEST_ADDRESS_H_

#include <compare>
#include <cstdint>

namespace ferrite {

// The guest's page and the unit of dirty tracking, whatever the host's page size is.
inline constexpr uint64_t kPageBytes = 4096;
// 4 KiB pages of a huge page of a guest's, 2 MiB: what is kept together where it can be.
inline constexpr uint64_t kBlockPages = 512;

// A guest-physical address, in bytes. It may be any 64-bit value: a guest writes them into descriptors. Arithmetic
// does not check for overflow; GuestMemory does.
class GuestAddress {
 public:
  constexpr GuestAddress() = default;
  constexpr explicit GuestAddress(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr GuestAddress operator+(uint64_t bytes) const { return GuestAddress(value_ + bytes); }
  constexpr uint64_t operator-(GuestAddress other) const { return value_ - other.value_; }
  constexpr auto operator<=>(const GuestAddress&) const = default;

 private:
  uint64_t value_ = 0;
};

}  // namespace ferrite

#endif  // FERRITE_MEMORY_GUEST_ADDRESS_H_
