// A guest that is with a peer of version 2: all that passes in a move, none of which the peer looks into.
#ifndef FERRITE_TESTS_COMPAT_VERSION2_GUEST_H_
#define FERRITE_TESTS_COMPAT_VERSION2_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tests/compat/version2_bytes.h"

namespace ferrite::version2 {

enum class PageState : uint8_t {
  kMissing,
  kHere,
  kDoubtful,  // it came with other bytes than its sum's
  kLost,      // the hardware lost it, at a source of before
};

struct GuestRegion {
  std::string name;
  uint64_t base = 0;
  Bytes bytes;
  std::vector<PageState> pages;  // of 4 KiB

  std::span<uint8_t> page(uint64_t index, uint64_t count = 1) {
    return std::span(bytes).subspan(index * kPage, count * kPage);
  }
  std::span<const uint8_t> page(uint64_t index, uint64_t count = 1) const {
    return std::span(bytes).subspan(index * kPage, count * kPage);
  }
};

struct Guest {
  std::vector<GuestRegion> regions;  // of memory
  std::string kind;                  // of MACHINE
  uint32_t version = 0;
  Bytes machine;
  uint32_t state_version = 0;  // of PACKAGE
  Bytes state;
};

}  // namespace ferrite::version2

#endif  // FERRITE_TESTS_COMPAT_VERSION2_GUEST_H_
