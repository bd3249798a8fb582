// Every decoder of the wire, from bytes that anyone may send (R11).
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"

namespace {

template <size_t N>
std::array<uint8_t, N> Take(const uint8_t* data, size_t size) {
  std::array<uint8_t, N> out{};
  std::copy_n(data, std::min(size, N), out.begin());
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferrite::migration;  // NOLINT(google-build-using-namespace)
  (void)DecodePageHeader(Take<kPageHeaderBytes>(data, size));
  (void)DecodePageHeader(Take<kPageHeaderBytes>(data, size), Frames::kLanes);
  (void)DecodePreamble(Take<kPreambleBytes>(data, size));
  (void)DecodeControlHeader(Take<kControlHeaderBytes>(data, size));
  const auto proof = Take<kProofBytes>(data, size);
  if (EncodeProof(DecodeProof(proof, Nonce{})) != proof) {
    __builtin_trap();
  }
  // Past the checksums, as a peer could be that computes them.
  auto sealed = Take<kPageHeaderBytes>(data, size);
  const uint32_t crc = Crc32c({sealed.data(), kPageHeaderBytes - 4});
  std::memcpy(&sealed[kPageHeaderBytes - 4], &crc, sizeof(crc));
  if (const auto header = DecodePageHeader(sealed);
      header.ok() && header->data_bytes() > uint64_t{kMaxDataPages} * 4096) {
    __builtin_trap();
  }
  if (const auto header = DecodePageHeader(sealed, Frames::kLanes);
      header.ok() &&
      (header->following_bytes() > uint64_t{kMaxDataPages} * 4100 || EncodePageHeader(*header) != sealed)) {
    __builtin_trap();
  }
  const auto key = Take<kRemoteKeyBytes>(data, size);
  if (const auto read = DecodeRemoteKey(key); read.ok() && EncodeRemoteKey(*read) != key) {
    __builtin_trap();
  }
  auto lanes = Take<kLanesBytes>(data, size);
  const uint32_t lanes_crc = Crc32c({lanes.data(), kLanesBytes - 4});
  std::memcpy(&lanes[kLanesBytes - 4], &lanes_crc, sizeof(lanes_crc));
  if (const auto read = DecodeLanes(lanes); read.ok() && *DecodeLanes(EncodeLanes(*read)) != *read) {
    __builtin_trap();
  }
  std::vector<uint64_t> payload(size / sizeof(uint64_t));
  if (!payload.empty()) {
    std::memcpy(payload.data(), data, payload.size() * sizeof(uint64_t));
  }
  if (const auto message = Decode(payload); message.ok()) {
    // What was read is written, and read again, as it is.
    const std::vector<uint8_t> frame = Encode(*message);
    std::vector<uint64_t> again((frame.size() - kControlHeaderBytes) / sizeof(uint64_t));
    std::memcpy(again.data(), &frame[kControlHeaderBytes], again.size() * sizeof(uint64_t));
    if (const auto read = Decode(again); !read.ok() || *read != *message) {
      __builtin_trap();
    }
  }
  return 0;
}
