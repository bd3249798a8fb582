// Every decoder of the wire, from bytes that anyone may send (R11).
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"

namespace {

using ferrite::migration::ControlMessage;

template <size_t N>
std::array<uint8_t, N> Take(const uint8_t* data, size_t size) {
  std::array<uint8_t, N> out{};
  std::copy_n(data, std::min(size, N), out.begin());
  return out;
}

// Reads all that a message holds.
absl::Status ReadAll(ferrite::stream::Control::Reader control) {
  using ferrite::stream::Control;
  switch (control.which()) {
    case Control::HELLO:
      (void)control.getHello().getMoveId();
      (void)control.getHello().getSoftware();
      break;
    case Control::MACHINE: {
      const auto machine = control.getMachine();
      for (const auto device : machine.getDevices()) {
        (void)device.getName();
      }
      for (const auto region : machine.getRegions()) {
        (void)region.getName();
      }
      for (const auto disk : machine.getDisks()) {
        (void)disk.getPath();
      }
      for (const auto leaf : machine.getCpuid()) {
        (void)leaf.getEax();
      }
      (void)machine.getBoot().getCommandLine();
      break;
    }
    case Control::DISCARD:
      for (const auto range : control.getDiscard().getRanges()) {
        (void)range.getFirst();
      }
      break;
    case Control::PACKAGE:
      (void)control.getPackage().getBlob();
      break;
    case Control::SHUT:
      for (const auto waiting : control.getShut().getFigures().getWaiting()) {
        (void)waiting.getSum();
      }
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferrite::migration;  // NOLINT(google-build-using-namespace)
  (void)DecodePageHeader(Take<kPageHeaderBytes>(data, size));
  (void)DecodePreamble(Take<kPreambleBytes>(data, size));
  (void)DecodeControlHeader(Take<kControlHeaderBytes>(data, size));
  // Past the checksums, as a peer could be that computes them.
  auto sealed = Take<kPageHeaderBytes>(data, size);
  const uint32_t crc = Crc32c({sealed.data(), kPageHeaderBytes - 4});
  std::memcpy(&sealed[kPageHeaderBytes - 4], &crc, sizeof(crc));
  if (const auto header = DecodePageHeader(sealed);
      header.ok() && header->data_bytes() > uint64_t{kMaxDataPages} * 4096) {
    __builtin_trap();
  }
  std::vector<uint64_t> payload(size / sizeof(uint64_t));
  if (!payload.empty()) {
    std::memcpy(payload.data(), data, payload.size() * sizeof(uint64_t));
  }
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(payload.data()),
                                       payload.size() * sizeof(uint64_t));
  const ControlHeader header{.length = static_cast<uint32_t>(bytes.size()), .payload_crc = Crc32c(bytes)};
  if (const auto message = ControlMessage::Parse(header, std::move(payload)); message.ok()) {
    (void)message->Read(ReadAll);
  }
  return 0;
}
