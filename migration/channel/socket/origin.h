// Who is at the other end of a connection, as far as many of them can be one's.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_ORIGIN_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_ORIGIN_H_

#include <sys/socket.h>

#include <string>

namespace ferrite::migration {

// Whose the connection `fd` is: an IPv4 address, the first 64 bits of an IPv6 one,
// this host (127.0.0.0/8, ::1, unix sockets). Empty when the other end is gone.
std::string OriginOf(int fd);
std::string OriginOf(const sockaddr_storage& address);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_ORIGIN_H_
