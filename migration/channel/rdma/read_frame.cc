#include "migration/channel/rdma/read_frame.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"
#include "migration/protocol/lanes.h"

namespace ferrite::migration {

absl::Status TakeReadable(PageHandler& handler, const PageHeader& header, Stream& stream, Puller& puller) {
  std::array<uint8_t, kRemoteKeyBytes> bytes;
  FERRITE_RETURN_IF_ERROR(stream.ReadRest(bytes));
  FERRITE_ASSIGN_OR_RETURN(const RemoteKey key, DecodeRemoteKey(bytes));
  if (!key.given) {
    return absl::InvalidArgumentError("page frame: pages that are to be read, without a key");
  }
  PageRange rest{.region = header.region, .first = header.first_page, .count = header.count};
  while (rest.count > 0) {
    FERRITE_ASSIGN_OR_RETURN(const PageHandler::Target target, handler.NextTarget(rest));
    if (!target.bytes.empty()) {
      const uint64_t offset = (rest.first - header.first_page) * kPageBytes;
      FERRITE_ASSIGN_OR_RETURN(const std::span<const uint8_t> read,
                               puller.Read({.address = key.address + offset, .key = key.key}, target.bytes.size()));
      // The hardware may lose a page of this side's.
      if (TouchMemory([&] { std::memcpy(target.bytes.data(), read.data(), read.size()); }).has_value()) {
        return absl::ResourceExhaustedError("memory that pages came to cannot be had");
      }
      FERRITE_RETURN_IF_ERROR(handler.Filled({.region = rest.region, .first = rest.first, .count = target.pages}));
    }
    rest.first += target.pages;
    rest.count -= target.pages;
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
