#include "migration/secret/move_secret.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <sys/random.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr absl::string_view kSecretLabel = "ferrite move secret 1";
constexpr absl::string_view kProofLabel = "ferrite move proof 1";

struct FreeContext {
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_PKEY_CTX, FreeContext>;
struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Key = std::unique_ptr<EVP_PKEY, FreeKey>;

// The library's errors are its thread's until somebody takes them.
absl::Status LibraryStatus(absl::string_view what) {
  const unsigned long error = ERR_get_error();  // NOLINT(google-runtime-int)
  const char* const reason = ERR_reason_error_string(error);
  const std::string words = absl::StrCat(what, ": ", reason != nullptr ? reason : "libcrypto gives no reason");
  ERR_clear_error();
  return ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE ? absl::ResourceExhaustedError(words)
                                                       : absl::InternalError(words);
}

// Without the host's configuration file, which may load what it likes.
absl::Status StartLibrary() {
  return OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr) == 1 ? absl::OkStatus()
                                                                        : LibraryStatus("start libcrypto");
}

template <typename T>
std::span<const uint8_t> Bytes(const T& from) {
  return {reinterpret_cast<const uint8_t*>(from.data()), from.size()};
}

template <typename... Parts>
std::vector<uint8_t> Joined(const Parts&... parts) {
  std::vector<uint8_t> out;
  (out.insert(out.end(), Bytes(parts).begin(), Bytes(parts).end()), ...);
  return out;
}

std::vector<uint8_t> BytesOf(const Statement& statement) {
  std::vector<uint8_t> out = Joined(kProofLabel);
  const auto number = [&out](uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      out.push_back(static_cast<uint8_t>(value >> (8 * i)));
    }
  };
  number(static_cast<uint8_t>(statement.claim), 1);
  number(statement.role, 1);
  number(statement.index, 2);
  number(statement.epoch, 8);
  out.insert(out.end(), statement.source.begin(), statement.source.end());
  out.insert(out.end(), statement.destination.begin(), statement.destination.end());
  return out;
}

}  // namespace

absl::StatusOr<Nonce> MakeNonce() {
  Nonce nonce;
  if (getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size())) {
    return ErrnoStatus("make a nonce: getrandom");
  }
  return nonce;
}

MoveSecret& MoveSecret::operator=(MoveSecret&& other) noexcept {
  if (this != &other) {
    key_ = other.key_;
    agreed_ = other.agreed_;
    other.Wipe();
  }
  return *this;
}

void MoveSecret::Wipe() {
  OPENSSL_cleanse(key_.data(), key_.size());
  agreed_ = false;
}

absl::StatusOr<Digest> MoveSecret::Prove(const Statement& statement) const {
  if (!agreed_) {
    return absl::FailedPreconditionError("the two sides of the move have not agreed on a secret");
  }
  const std::vector<uint8_t> bytes = BytesOf(statement);
  Digest digest;
  unsigned int length = 0;
  if (HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()), bytes.data(), bytes.size(), digest.data(),
           &length) == nullptr ||
      length != digest.size()) {
    return LibraryStatus("HMAC-SHA256");
  }
  return digest;
}

absl::Status MoveSecret::Check(const Statement& statement, const Digest& digest) const {
  FERRITE_ASSIGN_OR_RETURN(const Digest right, Prove(statement));
  return CRYPTO_memcmp(right.data(), digest.data(), right.size()) == 0
             ? absl::OkStatus()
             : absl::PermissionDeniedError("it does not prove that it is of this move");
}

absl::StatusOr<KeyExchange> KeyExchange::Create(Side side) {
  FERRITE_RETURN_IF_ERROR(StartLibrary());
  Key pair(EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519"));
  PublicKey key;
  size_t length = key.size();
  if (pair == nullptr || EVP_PKEY_get_raw_public_key(pair.get(), key.data(), &length) != 1 || length != key.size()) {
    return LibraryStatus("make a key of X25519");
  }
  FERRITE_ASSIGN_OR_RETURN(const Nonce nonce, MakeNonce());
  return KeyExchange(side, pair.release(), key, nonce);
}

KeyExchange::KeyExchange(KeyExchange&& other) noexcept
    : side_(other.side_), pair_(std::exchange(other.pair_, nullptr)), key_(other.key_), nonce_(other.nonce_) {}

KeyExchange::~KeyExchange() { EVP_PKEY_free(static_cast<EVP_PKEY*>(pair_)); }

absl::StatusOr<MoveSecret> KeyExchange::Agree(const PublicKey& their_key, const Nonce& their_nonce,
                                              const MoveId& id) const {
  const Key theirs(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, their_key.data(), their_key.size()));
  const Context agreement(EVP_PKEY_CTX_new(static_cast<EVP_PKEY*>(pair_), nullptr));
  if (theirs == nullptr || agreement == nullptr || EVP_PKEY_derive_init(agreement.get()) != 1 ||
      EVP_PKEY_derive_set_peer(agreement.get(), theirs.get()) != 1) {
    return LibraryStatus("agree on a secret");
  }
  std::array<uint8_t, 32> shared;
  const absl::Cleanup wipe = [&shared] { OPENSSL_cleanse(shared.data(), shared.size()); };
  size_t length = shared.size();
  if (EVP_PKEY_derive(agreement.get(), shared.data(), &length) != 1 || length != shared.size()) {
    if (ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE) {
      return LibraryStatus("agree on a secret");
    }
    // All zeroes, whatever our key is.
    ERR_clear_error();
    return absl::InvalidArgumentError("agree on a secret: the other side's key gives none");
  }
  const bool is_source = side_ == Side::kSource;
  const std::vector<uint8_t> salt = Joined(is_source ? nonce_ : their_nonce, is_source ? their_nonce : nonce_);
  const std::vector<uint8_t> info =
      Joined(kSecretLabel, id, is_source ? key_ : their_key, is_source ? their_key : key_);
  const Context derivation(EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr));
  MoveSecret secret;
  length = secret.key_.size();
  if (derivation == nullptr || EVP_PKEY_derive_init(derivation.get()) != 1 ||
      EVP_PKEY_CTX_set_hkdf_md(derivation.get(), EVP_sha256()) != 1 ||
      EVP_PKEY_CTX_set1_hkdf_salt(derivation.get(), salt.data(), static_cast<int>(salt.size())) != 1 ||
      EVP_PKEY_CTX_set1_hkdf_key(derivation.get(), shared.data(), static_cast<int>(shared.size())) != 1 ||
      EVP_PKEY_CTX_add1_hkdf_info(derivation.get(), info.data(), static_cast<int>(info.size())) != 1 ||
      EVP_PKEY_derive(derivation.get(), secret.key_.data(), &length) != 1 || length != secret.key_.size()) {
    return LibraryStatus("HKDF-SHA256");
  }
  secret.agreed_ = true;
  return secret;
}

}  // namespace ferrite::migration
