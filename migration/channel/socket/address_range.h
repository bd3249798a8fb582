// Parts of the Internet's address space: who may connect.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_ADDRESS_RANGE_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_ADDRESS_RANGE_H_

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite::migration {

// An IPv4 address that came as an IPv6 one (::ffff:192.0.2.7, as a listener of both kinds shows it) is an IPv4 address
// here: no range of IPv6 holds it.
class AddressRange {
 public:
  // "192.0.2.0/24", "2001:db8::/32"; an address alone is a range of one. INVALID_ARGUMENT with the forms that are
  // understood, also for an address that has bits beyond the mask.
  static absl::StatusOr<AddressRange> Parse(absl::string_view text);

  bool Contains(const sockaddr_storage& address) const;

 private:
  AddressRange() = default;

  bool is_v4_ = false;
  std::array<uint8_t, 16> bytes_{};  // the first 4 of them, for IPv4
  int bits_ = 0;
};

// Whether the other end of the connection `fd` is in one of `ranges`. False of one that is gone already.
bool IsFrom(int fd, std::span<const AddressRange> ranges);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_ADDRESS_RANGE_H_
