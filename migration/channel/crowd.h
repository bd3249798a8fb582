// Who has to go when too many are here: nobody is kept out by others who come from elsewhere.
#ifndef FERRITE_MIGRATION_CHANNEL_CROWD_H_
#define FERRITE_MIGRATION_CHANNEL_CROWD_H_

#include <sys/socket.h>

#include <cstddef>
#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace ferrite::migration {

// Whose the connection `fd` is, as far as many of them can be one's: an IPv4 address, the first 64 bits of an IPv6 one,
// this host (127.0.0.0/8, ::1, unix sockets). Empty when the other end is gone.
std::string OriginOf(int fd);
std::string OriginOf(const sockaddr_storage& address);

// One that is here.
struct Present {
  absl::string_view origin;
  bool silent = false;  // it has said nothing of use yet
};

// The index in `here` (not empty; the one that came first is first) of who goes for one that comes from `origin`: of
// the origin that has most, the newcomer counted, the first that is silent, or the first.
size_t WhoMakesRoom(std::span<const Present> here, absl::string_view origin);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_CROWD_H_
