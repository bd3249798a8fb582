#include "tests/compat/version2_secret.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace ferrite::version2 {
namespace {

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
using Key = std::unique_ptr<EVP_PKEY, FreeKey>;
using Context = std::unique_ptr<EVP_PKEY_CTX, FreeKey>;

Bytes32 Hmac(std::span<const uint8_t> key, std::span<const uint8_t> bytes) {
  Bytes32 out;
  FERRITE_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes.data(), bytes.size(), out.data(),
                     nullptr) != nullptr);
  return out;
}

template <typename T>
void Append(Bytes& out, const T& bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

Key PrivateKey(const Bytes32& bytes) {
  Key key(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, bytes.data(), bytes.size()));
  FERRITE_CHECK(key != nullptr);
  return key;
}

}  // namespace

Bytes32 RandomBytes() {
  Bytes32 bytes;
  FERRITE_CHECK(getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return bytes;
}

Bytes32 DigestOf(const Bytes32& secret, const Statement& statement) {
  Bytes bytes;
  Append(bytes, absl::string_view("ferrite move proof 1"));
  bytes.resize(32);
  bytes[20] = static_cast<uint8_t>(statement.claim);
  bytes[21] = static_cast<uint8_t>(statement.role);
  Put(&bytes[22], statement.index, 2);
  Put(&bytes[24], statement.epoch, 8);
  Append(bytes, statement.source);
  Append(bytes, statement.destination);
  return Hmac(secret, bytes);
}

Bytes32 PublicKeyOf(const Bytes32& private_key) {
  Bytes32 out;
  size_t length = out.size();
  FERRITE_CHECK(EVP_PKEY_get_raw_public_key(PrivateKey(private_key).get(), out.data(), &length) == 1 &&
                length == out.size());
  return out;
}

Bytes32 SecretOf(const Bytes32& private_key, const Bytes32& theirs, const Greeting& greeting) {
  const Key ours = PrivateKey(private_key);
  const Key other(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, theirs.data(), theirs.size()));
  const Context agreement(EVP_PKEY_CTX_new(ours.get(), nullptr));
  Bytes32 shared;
  size_t length = shared.size();
  FERRITE_CHECK(other != nullptr && agreement != nullptr && EVP_PKEY_derive_init(agreement.get()) == 1 &&
                EVP_PKEY_derive_set_peer(agreement.get(), other.get()) == 1 &&
                EVP_PKEY_derive(agreement.get(), shared.data(), &length) == 1 && length == shared.size());
  // HKDF of RFC 5869: one block of SHA-256 is all that is needed.
  Bytes salt;
  Append(salt, greeting.source_nonce);
  Append(salt, greeting.destination_nonce);
  Bytes info;
  Append(info, absl::string_view("ferrite move secret 1"));
  Append(info, greeting.move_id);
  Append(info, greeting.source_key);
  Append(info, greeting.destination_key);
  info.push_back(1);
  return Hmac(Hmac(salt, shared), info);
}

}  // namespace ferrite::version2
