#include "migration/protocol/page_header.h"

#include "absl/strings/str_cat.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

// Offsets of the fields.
constexpr size_t kType = 0;        // u16
constexpr size_t kBytes = 2;       // u16: PageBytes, 0 without lanes
constexpr size_t kRegion = 4;      // u16
constexpr size_t kReserved2 = 6;   // u16, 0
constexpr size_t kFirstPage = 8;   // u64
constexpr size_t kCount = 16;      // u32
constexpr size_t kReserved3 = 20;  // u32, 0
constexpr size_t kLength = 24;     // u32: bytes that follow
constexpr size_t kCrc = 28;        // u32: CRC-32C of bytes 0 to 27

bool IsType(uint16_t type, Frames frames) {
  const auto between = [type](PageFrameType first, PageFrameType last) {
    return static_cast<uint16_t>(first) <= type && type <= static_cast<uint16_t>(last);
  };
  return between(PageFrameType::kPages, PageFrameType::kRequest) ||
         (frames == Frames::kLanes && between(PageFrameType::kBarrier, PageFrameType::kKey));
}

bool MayBe(PageBytes bytes, PageFrameType type, Frames frames) {
  switch (bytes) {
    case PageBytes::kBehind:
      return true;
    case PageBytes::kWritten:
      return frames == Frames::kLanes && (type == PageFrameType::kPages || type == PageFrameType::kRound);
    case PageBytes::kReadable:
      return frames == Frames::kLanes && type == PageFrameType::kPages;
  }
  return false;
}

// Whether `count` is one of pages.
bool HasPages(PageFrameType type) {
  return type != PageFrameType::kRound && type != PageFrameType::kBarrier && type != PageFrameType::kEndRounds;
}

}  // namespace

std::array<uint8_t, kPageHeaderBytes> EncodePageHeader(const PageHeader& header) {
  std::array<uint8_t, kPageHeaderBytes> out{};
  PutLittle<uint16_t>(&out[kType], static_cast<uint16_t>(header.type));
  PutLittle<uint16_t>(&out[kBytes], static_cast<uint16_t>(header.bytes));
  PutLittle<uint16_t>(&out[kRegion], header.region);
  PutLittle<uint64_t>(&out[kFirstPage], header.first_page);
  PutLittle<uint32_t>(&out[kCount], header.count);
  PutLittle<uint32_t>(&out[kLength], static_cast<uint32_t>(header.following_bytes()));
  PutLittle<uint32_t>(&out[kCrc], Crc32c({out.data(), kCrc}));
  return out;
}

absl::StatusOr<PageHeader> DecodePageHeader(std::span<const uint8_t, kPageHeaderBytes> bytes, Frames frames) {
  if (GetLittle<uint32_t>(&bytes[kCrc]) != Crc32c(bytes.first<kCrc>())) {
    return absl::DataLossError("page frame: the header's checksum is wrong");
  }
  const uint16_t type = GetLittle<uint16_t>(&bytes[kType]);
  if (!IsType(type, frames)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: unknown type ", type));
  }
  PageHeader header;
  header.type = static_cast<PageFrameType>(type);
  header.region = GetLittle<uint16_t>(&bytes[kRegion]);
  header.first_page = GetLittle<uint64_t>(&bytes[kFirstPage]);
  header.count = GetLittle<uint32_t>(&bytes[kCount]);
  header.bytes = static_cast<PageBytes>(GetLittle<uint16_t>(&bytes[kBytes]));
  if (!MayBe(header.bytes, header.type, frames) || GetLittle<uint16_t>(&bytes[kReserved2]) != 0 ||
      GetLittle<uint32_t>(&bytes[kReserved3]) != 0) {
    return absl::InvalidArgumentError("page frame: reserved bytes are not zero");
  }
  if (header.count == 0 && HasPages(header.type)) {
    return absl::InvalidArgumentError("page frame: no pages");
  }
  if (header.type == PageFrameType::kPages && header.count > kMaxDataPages) {
    return absl::InvalidArgumentError(
        absl::StrCat("page frame: ", header.count, " pages of data, at most ", kMaxDataPages, " are allowed"));
  }
  if (GetLittle<uint32_t>(&bytes[kLength]) != header.following_bytes()) {
    return absl::InvalidArgumentError("page frame: the length does not fit the number of pages");
  }
  return header;
}

}  // namespace ferrite::migration
