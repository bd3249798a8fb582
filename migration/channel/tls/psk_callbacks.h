// Pre-shared keys in TLS 1.3 (RFC 8446, 2.2 and 4.2.11), as OpenSSL asks for them.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_PSK_CALLBACKS_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_PSK_CALLBACKS_H_

#include <string>
#include <vector>

#include "migration/channel/tls/tls_files.h"

struct ssl_ctx_st;
struct ssl_st;

namespace ferrite::migration {

enum class TlsSide;

// Of `keys`, which outlive `context` and all that is made of it, the source shows the first one, and the destination
// finds that which is shown. The cipher's hash is SHA-256, that of such keys (4.2.11).
void UseKeys(ssl_ctx_st* context, const std::vector<PreSharedKey>& keys, TlsSide side);

// Under which name the two ends of a connection found each other: empty when it was not by such a key.
std::string IdentityOf(const ssl_st* ssl);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_PSK_CALLBACKS_H_
