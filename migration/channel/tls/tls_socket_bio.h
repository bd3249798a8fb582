// How OpenSSL reads and writes a socket of ours.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_SOCKET_BIO_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_SOCKET_BIO_H_

#include "absl/status/statusor.h"

struct bio_st;

namespace ferrite::migration {

// A BIO over the socket `fd`, which is not its own. Unlike the library's (BIO_s_socket) it waits for nothing whatever
// the descriptor's flags are, raises no SIGPIPE, and takes the header of the next record with the body of one: that
// halves the system calls of who reads much. Where the kernel does TLS (kTLS), it is the library's. Threads: one at a
// time. RESOURCE_EXHAUSTED for want of memory.
absl::StatusOr<bio_st*> NewTlsSocketBio(int fd);

// Whether bytes were taken from the socket that nobody has had yet.
bool HasBytes(bio_st* bio);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_SOCKET_BIO_H_
