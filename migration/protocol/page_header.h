// The 32 bytes that stand before page data and are a request (docs/wire_format.md, "Page frames").
#ifndef FERRITE_MIGRATION_PROTOCOL_PAGE_HEADER_H_
#define FERRITE_MIGRATION_PROTOCOL_PAGE_HEADER_H_

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "memory/guest_address.h"
#include "memory/page_range.h"

namespace ferrite::migration {

inline constexpr size_t kPageHeaderBytes = 32;
// The most pages of data in one frame: one huge page of 2 MiB. Runs of zero and poisoned pages are as long as their
// region.
inline constexpr uint32_t kMaxDataPages = 512;

// The number of a ROUND that ends the pages of a channel after the switchover.
inline constexpr uint32_t kLastRound = 0xffffffff;

// What comes back on a page channel, after the switchover: the next of the frames that were sent is placed.
inline constexpr uint8_t kPlaced = 0x06;

enum class PageFrameType : uint16_t {
  kPages = 1,    // count pages: count sums of 4 bytes follow, then count * 4096 bytes
  kZero = 2,     // count pages of zeroes, nothing follows
  kPoison = 3,   // count pages that the hardware lost, nothing follows
  kRound = 4,    // the end of round `count` on this channel, nothing follows
  kRequest = 5,  // ← on an urgent channel: send these pages now, nothing follows
  // Between two ends that have lanes (rdma/):
  kBarrier = 16,    // of what was written beside the stream: → `count` SENDs are behind that; ← they have arrived
  kEndRounds = 17,  // → nothing is written any more
  kAskKey = 18,     // → the key of this chunk
  kKey = 19,        // the key of this chunk: a RemoteKey follows
};

// Where the bytes of a kPages frame are. On a kRound kWritten asks for kBarrier back.
enum class PageBytes : uint16_t {
  kBehind = 0,    // behind the header
  kWritten = 1,   // in their place: they were written there beside the stream
  kReadable = 2,  // at the source, to be read from there: a RemoteKey follows
};
inline constexpr size_t kRemoteKeyBytes = 16;

// Which frames an end takes.
enum class Frames {
  kPlain,  // those of any channel
  kLanes,  // those between ends that have lanes, too
};

struct PageHeader {
  PageFrameType type = PageFrameType::kPages;
  uint16_t region = 0;
  uint64_t first_page = 0;  // in the region, 4 KiB
  uint32_t count = 0;
  PageBytes bytes = PageBytes::kBehind;

  bool has_data() const { return type == PageFrameType::kPages && bytes == PageBytes::kBehind; }
  bool has_key() const {
    return type == PageFrameType::kKey || (type == PageFrameType::kPages && bytes == PageBytes::kReadable);
  }
  uint64_t data_bytes() const { return has_data() ? count * kPageBytes : 0; }
  // Of the sums that stand before the data.
  uint64_t sum_bytes() const { return has_data() ? uint64_t{count} * sizeof(uint32_t) : 0; }
  // That follow the header.
  uint64_t following_bytes() const { return sum_bytes() + data_bytes() + (has_key() ? kRemoteKeyBytes : 0); }
  bool operator==(const PageHeader&) const = default;
};

// Of a frame of the pages of `run`, at most UINT32_MAX.
inline PageHeader HeaderOf(PageFrameType type, const PageRange& run) {
  return {.type = type, .region = run.region, .first_page = run.first, .count = static_cast<uint32_t>(run.count)};
}

std::array<uint8_t, kPageHeaderBytes> EncodePageHeader(const PageHeader& header);

// DATA_LOSS for a wrong checksum; INVALID_ARGUMENT for an unknown type, a count of 0 (but for kRound), data of
// more than kMaxDataPages, a length that does not fit the count, or set reserved bytes. That the pages lie in a region
// is for the reader to check, who knows the regions.
absl::StatusOr<PageHeader> DecodePageHeader(std::span<const uint8_t, kPageHeaderBytes> bytes,
                                            Frames frames = Frames::kPlain);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_PAGE_HEADER_H_
