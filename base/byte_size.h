// Sizes as people write them: "512M".
#ifndef FERRITE_BASE_BYTE_SIZE_H_
#define FERRITE_BASE_BYTE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// Decimal digits, then nothing (bytes) or one of K, M, G, T (powers of 1024). Nothing else, and no overflow.
absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text);

// The shortest exact form of the same kind: "512M", "1536M", "4097".
std::string FormatByteSize(uint64_t bytes);

// Three digits at most, for people: "1.5 GiB".
std::string RoundedByteSize(uint64_t bytes);

}  // namespace ferrite

#endif  // FERRITE_BASE_BYTE_SIZE_H_
