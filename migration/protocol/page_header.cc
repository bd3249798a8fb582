#include "migration/protocol/page_header.h"

#include "absl/strings/str_cat.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

// Offsets of the fields.
constexpr size_t kType = 0;        // u16
constexpr size_t kReserved = 2;    // u16, 0
constexpr size_t kRegion = 4;      // u16
constexpr size_t kReserved2 = 6;   // u16, 0
constexpr size_t kFirstPage = 8;   // u64
constexpr size_t kCount = 16;      // u32
constexpr size_t kReserved3 = 20;  // u32, 0
constexpr size_t kLength = 24;     // u32: bytes that follow
constexpr size_t kCrc = 28;        // u32: CRC-32C of bytes 0 to 27

}  // namespace

std::array<uint8_t, kPageHeaderBytes> EncodePageHeader(const PageHeader& header) {
  std::array<uint8_t, kPageHeaderBytes> out{};
  PutLittle<uint16_t>(&out[kType], static_cast<uint16_t>(header.type));
  PutLittle<uint16_t>(&out[kRegion], header.region);
  PutLittle<uint64_t>(&out[kFirstPage], header.first_page);
  PutLittle<uint32_t>(&out[kCount], header.count);
  PutLittle<uint32_t>(&out[kLength], static_cast<uint32_t>(header.following_bytes()));
  PutLittle<uint32_t>(&out[kCrc], Crc32c({out.data(), kCrc}));
  return out;
}

absl::StatusOr<PageHeader> DecodePageHeader(std::span<const uint8_t, kPageHeaderBytes> bytes) {
  if (GetLittle<uint32_t>(&bytes[kCrc]) != Crc32c(bytes.first<kCrc>())) {
    return absl::DataLossError("page frame: the header's checksum is wrong");
  }
  const uint16_t type = GetLittle<uint16_t>(&bytes[kType]);
  if (type < static_cast<uint16_t>(PageFrameType::kPages) || type > static_cast<uint16_t>(PageFrameType::kRequest)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: unknown type ", type));
  }
  PageHeader header;
  header.type = static_cast<PageFrameType>(type);
  header.region = GetLittle<uint16_t>(&bytes[kRegion]);
  header.first_page = GetLittle<uint64_t>(&bytes[kFirstPage]);
  header.count = GetLittle<uint32_t>(&bytes[kCount]);
  if (GetLittle<uint16_t>(&bytes[kReserved]) != 0 || GetLittle<uint16_t>(&bytes[kReserved2]) != 0 ||
      GetLittle<uint32_t>(&bytes[kReserved3]) != 0) {
    return absl::InvalidArgumentError("page frame: reserved bytes are not zero");
  }
  if (header.count == 0 && header.type != PageFrameType::kRound) {
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
