#include "tests/compat/version2_bytes.h"

#include <nmmintrin.h>

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ferrite::version2 {
namespace {

constexpr uint8_t kMagic[] = {0x46, 0x45, 0x52, 0x52, 0x49, 0x54, 0x45, 0x0a};  // "FERRITE\n"
constexpr uint8_t kMark[] = {0x46, 0x43, 0x54, 0x4c};                           // "FCTL"
constexpr char kFiller[] = "LOSTPAGE";

uint32_t BytesBehind(const PageHeader& header) {
  return header.type == PageType::kPages ? static_cast<uint32_t>(header.count * (kPage + 4)) : 0;
}

}  // namespace

void Put(uint8_t* at, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    at[i] = static_cast<uint8_t>(value >> (8 * i));
  }
}

uint64_t Get(const uint8_t* at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) {
    value |= uint64_t{at[i]} << (8 * i);
  }
  return value;
}

// A machine that has KVM has the instruction.
__attribute__((target("sse4.2"))) uint32_t Crc32c(std::span<const uint8_t> bytes) {
  uint64_t crc = 0xffffffff;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    crc = _mm_crc32_u64(crc, word);
  }
  for (const uint8_t byte : bytes) {
    crc = _mm_crc32_u8(static_cast<uint32_t>(crc), byte);
  }
  return ~static_cast<uint32_t>(crc);
}

PreambleBytes Encode(const Preamble& preamble) {
  PreambleBytes out{};
  std::memcpy(out.data(), kMagic, sizeof(kMagic));
  Put(&out[8], preamble.lowest, 2);
  Put(&out[10], preamble.newest, 2);
  out[12] = static_cast<uint8_t>(preamble.role);
  Put(&out[14], preamble.index, 2);
  std::copy(preamble.move_id.begin(), preamble.move_id.end(), &out[16]);
  return out;
}

absl::StatusOr<Preamble> DecodePreamble(const PreambleBytes& bytes) {
  if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError("preamble: it does not begin with FERRITE");
  }
  Preamble preamble{.lowest = static_cast<uint16_t>(Get(&bytes[8], 2)),
                    .newest = static_cast<uint16_t>(Get(&bytes[10], 2)),
                    .role = static_cast<Role>(bytes[12]),
                    .index = static_cast<uint16_t>(Get(&bytes[14], 2))};
  if (preamble.lowest > kVersion || preamble.newest < kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("preamble: versions ", preamble.lowest, " to ", preamble.newest));
  }
  if (bytes[12] > 3 || bytes[13] != 0) {
    return absl::InvalidArgumentError(absl::StrCat("preamble: role ", bytes[12], ", and ", bytes[13], " behind it"));
  }
  std::copy_n(&bytes[16], preamble.move_id.size(), preamble.move_id.begin());
  return preamble;
}

ProofBytes Encode(const Proof& proof) {
  ProofBytes out{};
  Put(out.data(), proof.epoch, 8);
  std::copy(proof.nonce.begin(), proof.nonce.end(), &out[8]);
  std::copy(proof.digest.begin(), proof.digest.end(), &out[40]);
  return out;
}

Proof DecodeProof(const ProofBytes& bytes) {
  Proof proof{.epoch = Get(bytes.data(), 8)};
  std::copy_n(&bytes[8], proof.nonce.size(), proof.nonce.begin());
  std::copy_n(&bytes[40], proof.digest.size(), proof.digest.begin());
  return proof;
}

Bytes ControlFrame(std::span<const uint8_t> payload) {
  Bytes out(16 + payload.size());
  std::memcpy(out.data(), kMark, sizeof(kMark));
  Put(&out[4], payload.size(), 4);
  Put(&out[8], Crc32c(payload), 4);
  Put(&out[12], Crc32c(std::span<const uint8_t>(out).first(12)), 4);
  std::copy(payload.begin(), payload.end(), out.begin() + 16);
  return out;
}

absl::StatusOr<ControlHeader> DecodeControlHeader(const ControlHeaderBytes& bytes, uint32_t most) {
  if (std::memcmp(bytes.data(), kMark, sizeof(kMark)) != 0 ||
      Get(&bytes[12], 4) != Crc32c(std::span<const uint8_t>(bytes).first(12))) {
    return absl::DataLossError("control frame: its mark or its sum is wrong");
  }
  const ControlHeader header{.length = static_cast<uint32_t>(Get(&bytes[4], 4)),
                             .payload_crc = static_cast<uint32_t>(Get(&bytes[8], 4))};
  if (header.length < 8 || header.length % 8 != 0 || header.length > most) {
    return absl::InvalidArgumentError(absl::StrCat("control frame: ", header.length, " bytes"));
  }
  return header;
}

PageHeaderBytes Encode(const PageHeader& header) {
  PageHeaderBytes out{};
  Put(out.data(), static_cast<uint16_t>(header.type), 2);
  Put(&out[4], header.region, 2);
  Put(&out[8], header.first, 8);
  Put(&out[16], header.count, 4);
  Put(&out[24], BytesBehind(header), 4);
  Put(&out[28], Crc32c(std::span<const uint8_t>(out).first(28)), 4);
  return out;
}

absl::StatusOr<PageHeader> DecodePageHeader(const PageHeaderBytes& bytes) {
  if (Get(&bytes[28], 4) != Crc32c(std::span<const uint8_t>(bytes).first(28))) {
    return absl::DataLossError("page frame: its sum is wrong");
  }
  const PageHeader header{.type = static_cast<PageType>(Get(bytes.data(), 2)),
                          .region = static_cast<uint16_t>(Get(&bytes[4], 2)),
                          .first = Get(&bytes[8], 8),
                          .count = static_cast<uint32_t>(Get(&bytes[16], 4))};
  if (Get(&bytes[2], 2) != 0 || Get(&bytes[6], 2) != 0 || Get(&bytes[20], 4) != 0) {
    return absl::InvalidArgumentError("page frame: something is set that is 0");
  }
  const auto type = static_cast<uint16_t>(header.type);
  const bool is_round = header.type == PageType::kRound;
  if (type < 1 || type > 5 || (header.count == 0 && !is_round) ||
      (header.type == PageType::kPages && header.count > kMostDataPages) || Get(&bytes[24], 4) != BytesBehind(header)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: type ", type, ", ", header.count, " pages, ",
                                                   Get(&bytes[24], 4), " bytes behind it"));
  }
  return header;
}

Bytes PagesFrame(uint16_t region, uint64_t first, std::span<const uint8_t> data) {
  const size_t count = data.size() / kPage;
  const PageHeaderBytes header = Encode(
      PageHeader{.type = PageType::kPages, .region = region, .first = first, .count = static_cast<uint32_t>(count)});
  Bytes out(header.begin(), header.end());
  out.resize(header.size() + 4 * count);
  for (size_t i = 0; i < count; ++i) {
    Put(&out[header.size() + 4 * i], Crc32c(data.subspan(i * kPage, kPage)), 4);
  }
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

std::array<uint8_t, kPage> LostFiller() {
  std::array<uint8_t, kPage> filler;
  for (size_t i = 0; i < filler.size(); ++i) {
    filler[i] = static_cast<uint8_t>(kFiller[i % 8]);
  }
  return filler;
}

}  // namespace ferrite::version2
