#include "migration/channel/socket/address_range.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clean_text.h"

namespace ferrite::migration {
namespace {

constexpr int kBits4 = 32;
constexpr int kBits6 = 128;
constexpr int kMappedBits = 96;  // of ::ffff:0:0/96

struct IpAddress {
  bool is_v4 = false;
  std::array<uint8_t, 16> bytes{};
};

IpAddress OfV4(const in_addr& address) {
  IpAddress ip{.is_v4 = true};
  std::memcpy(ip.bytes.data(), &address, sizeof(address));
  return ip;
}

IpAddress OfV6(const in6_addr& address) {
  IpAddress ip;
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    ip.is_v4 = true;
    std::memcpy(ip.bytes.data(), &address.s6_addr[kMappedBits / 8], sizeof(in_addr));
  } else {
    std::memcpy(ip.bytes.data(), &address, sizeof(address));
  }
  return ip;
}

std::optional<IpAddress> AddressOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address, sizeof(v4));
    return OfV4(v4.sin_addr);
  }
  if (address.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address, sizeof(v6));
    return OfV6(v6.sin6_addr);
  }
  return std::nullopt;
}

// The byte `index` of a mask of `bits`.
uint8_t MaskByte(int bits, int index) {
  const int set = std::clamp(bits - 8 * index, 0, 8);
  return static_cast<uint8_t>(0xff00U >> set);
}

absl::Status Wrong(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", CleanText(text), "' ", why, "; write 192.0.2.0/24, 2001:db8::/32, or an address alone"));
}

}  // namespace

absl::StatusOr<AddressRange> AddressRange::Parse(absl::string_view text) {
  const size_t slash = text.find('/');
  const std::string host(text.substr(0, slash));
  in_addr v4;
  in6_addr v6;
  const bool written_as_v4 = inet_pton(AF_INET, host.c_str(), &v4) == 1;
  if (!written_as_v4 && inet_pton(AF_INET6, host.c_str(), &v6) != 1) {
    return Wrong(text, "is no address");
  }
  const int most = written_as_v4 ? kBits4 : kBits6;
  int bits = most;
  if (slash != absl::string_view::npos &&
      (!absl::SimpleAtoi(text.substr(slash + 1), &bits) || bits < 0 || bits > most)) {
    return Wrong(text, absl::StrCat("has no mask of 0 to ", most, " bits"));
  }
  const IpAddress address = written_as_v4 ? OfV4(v4) : OfV6(v6);
  AddressRange range;
  range.is_v4_ = address.is_v4;
  range.bytes_ = address.bytes;
  range.bits_ = address.is_v4 && !written_as_v4 ? bits - kMappedBits : bits;
  for (int i = 0; i < static_cast<int>(range.bytes_.size()); ++i) {
    if (range.bits_ < 0 || (range.bytes_[static_cast<size_t>(i)] & ~MaskByte(range.bits_, i)) != 0) {
      return Wrong(text, "has bits beyond its mask");
    }
  }
  return range;
}

bool AddressRange::Contains(const sockaddr_storage& address) const {
  const std::optional<IpAddress> ip = AddressOf(address);
  if (!ip.has_value() || ip->is_v4 != is_v4_) {
    return false;
  }
  for (int i = 0; 8 * i < bits_; ++i) {
    const auto at = static_cast<size_t>(i);
    if ((ip->bytes[at] & MaskByte(bits_, i)) != bytes_[at]) {
      return false;
    }
  }
  return true;
}

bool IsFrom(int fd, std::span<const AddressRange> ranges) {
  sockaddr_storage peer{};
  socklen_t length = sizeof(peer);
  return getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
         std::any_of(ranges.begin(), ranges.end(), [&](const AddressRange& range) { return range.Contains(peer); });
}

}  // namespace ferrite::migration
