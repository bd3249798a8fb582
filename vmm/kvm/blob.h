// The kernel's structures as byte blobs of the saved state (proto/state.capnp).
#ifndef FERRITE_VMM_KVM_BLOB_H_
#define FERRITE_VMM_KVM_BLOB_H_

#include <capnp/blob.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// `value`'s bytes; valid as long as `value` is.
template <typename T>
capnp::Data::Reader BlobOf(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(T)};
}

// INVALID_ARGUMENT unless `blob` has exactly the bytes of a T. `name` is "vCPU 3: sregs".
template <typename T>
absl::Status CheckBlob(capnp::Data::Reader blob, absl::string_view name) {
  if (blob.size() != sizeof(T)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has ", blob.size(), " bytes, not ", sizeof(T)));
  }
  return absl::OkStatus();
}

// The structure in a blob for which CheckBlob() was OK.
template <typename T>
T FromBlob(capnp::Data::Reader blob) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, blob.begin(), sizeof(T));
  return value;
}

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_BLOB_H_
