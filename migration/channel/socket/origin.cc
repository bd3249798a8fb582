#include "migration/channel/socket/origin.h"

#include <netinet/in.h>

#include <cstdint>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace ferrite::migration {
namespace {

constexpr char kThisHost[] = "this host";
constexpr size_t kNetworkBytes = 8;  // of an IPv6 address: what a subscriber has at least

std::string OriginOfV4(const uint8_t* bytes) {
  return bytes[0] == IN_LOOPBACKNET
             ? kThisHost
             : absl::StrCat("4:", absl::BytesToHexString({reinterpret_cast<const char*>(bytes), sizeof(in_addr)}));
}

}  // namespace

std::string OriginOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address, sizeof(v4));
    return OriginOfV4(reinterpret_cast<const uint8_t*>(&v4.sin_addr));
  }
  if (address.ss_family != AF_INET6) {
    return kThisHost;
  }
  sockaddr_in6 v6;
  std::memcpy(&v6, &address, sizeof(v6));
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    return OriginOfV4(&v6.sin6_addr.s6_addr[sizeof(in6_addr) - sizeof(in_addr)]);
  }
  if (IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr)) {
    return kThisHost;
  }
  return absl::StrCat("6:",
                      absl::BytesToHexString({reinterpret_cast<const char*>(v6.sin6_addr.s6_addr), kNetworkBytes}));
}

std::string OriginOf(int fd) {
  sockaddr_storage peer{};
  socklen_t length = sizeof(peer);
  return getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0 ? OriginOf(peer) : "";
}

}  // namespace ferrite::migration
