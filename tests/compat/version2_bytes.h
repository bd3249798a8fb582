// The frozen version 2 of the wire, once more: what opens a connection, and what stands before a message and before
// pages.
//
// Nothing here comes from the engine, which may be wrong: both are written after docs/wire_format.md. And nothing here
// is changed any more: what was added to the wire later is not known in here.
#ifndef FERRITE_TESTS_COMPAT_VERSION2_BYTES_H_
#define FERRITE_TESTS_COMPAT_VERSION2_BYTES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace ferrite::version2 {

inline constexpr uint16_t kVersion = 2;

// Features, as bits of HELLO and WELCOME.
inline constexpr uint64_t kPostcopy = 0x01;
inline constexpr uint64_t kPoisonedPages = 0x02;
inline constexpr uint64_t kRecovery = 0x04;
inline constexpr uint64_t kMirroredDisks = 0x08;
inline constexpr uint64_t kResumption = 0x10;
inline constexpr uint64_t kFewerChannels = 0x20;
inline constexpr uint64_t kAllFeatures = 0x3f;

inline constexpr size_t kPage = 4096;
inline constexpr size_t kMostDataPages = 512;
inline constexpr size_t kMostRanges = 4096;
inline constexpr uint32_t kMostBytes = 64 << 20;
inline constexpr uint32_t kMostBytesBeforeAccept = 256 << 10;
inline constexpr uint8_t kPlaced = 0x06;
inline constexpr uint32_t kLastRound = 0xffffffff;

using MoveId = std::array<uint8_t, 16>;
using Bytes32 = std::array<uint8_t, 32>;  // a key, a nonce, a challenge or a digest
using Bytes = std::vector<uint8_t>;

// Little endian, `bytes` of them.
void Put(uint8_t* at, uint64_t value, size_t bytes);
uint64_t Get(const uint8_t* at, size_t bytes);

// CRC-32C, as RFC 3720 has it.
uint32_t Crc32c(std::span<const uint8_t> bytes);

// --- What opens a connection ---

enum class Role : uint8_t { kControl = 0, kPage = 1, kUrgent = 2, kRecover = 3 };

struct Preamble {
  uint16_t lowest = kVersion;
  uint16_t newest = kVersion;
  Role role = Role::kControl;
  uint16_t index = 0;
  MoveId move_id{};
  bool operator==(const Preamble&) const = default;
};
using PreambleBytes = std::array<uint8_t, 32>;
PreambleBytes Encode(const Preamble& preamble);
// An error also of one that does not speak version 2.
absl::StatusOr<Preamble> DecodePreamble(const PreambleBytes& bytes);

struct Proof {
  uint64_t epoch = 0;
  Bytes32 nonce{};
  Bytes32 digest{};
  bool operator==(const Proof&) const = default;
};
using ProofBytes = std::array<uint8_t, 72>;
ProofBytes Encode(const Proof& proof);
Proof DecodeProof(const ProofBytes& bytes);

// --- Control frames ---

using ControlHeaderBytes = std::array<uint8_t, 16>;
// With its header before it.
Bytes ControlFrame(std::span<const uint8_t> payload);
struct ControlHeader {
  uint32_t length = 0;
  uint32_t payload_crc = 0;
};
absl::StatusOr<ControlHeader> DecodeControlHeader(const ControlHeaderBytes& bytes, uint32_t most);

// --- Page frames ---

enum class PageType : uint16_t { kPages = 1, kZero = 2, kPoison = 3, kRound = 4, kRequest = 5 };

struct PageHeader {
  PageType type = PageType::kPages;
  uint16_t region = 0;
  uint64_t first = 0;
  uint32_t count = 0;
  bool operator==(const PageHeader&) const = default;
};
using PageHeaderBytes = std::array<uint8_t, 32>;
PageHeaderBytes Encode(const PageHeader& header);
absl::StatusOr<PageHeader> DecodePageHeader(const PageHeaderBytes& bytes);

// A frame of the pages whose bytes `data` is: header, sums, data.
Bytes PagesFrame(uint16_t region, uint64_t first, std::span<const uint8_t> data);

// What stands for a page that was lost while it left.
std::array<uint8_t, kPage> LostFiller();

}  // namespace ferrite::version2

#endif  // FERRITE_TESTS_COMPAT_VERSION2_BYTES_H_
