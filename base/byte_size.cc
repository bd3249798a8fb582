#include "base/byte_size.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

constexpr absl::string_view kSuffixes = "KMGT";

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text) {
  absl::string_view digits = text;
  unsigned shift = 0;
  if (!digits.empty()) {
    if (const size_t i = kSuffixes.find(digits.back()); i != absl::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(i) + 1);
      digits.remove_suffix(1);
    }
  }
  uint64_t number = 0;
  // SimpleAtoi alone would take signs and blanks.
  const bool all_digits = std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (digits.empty() || !all_digits || !absl::SimpleAtoi(digits, &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::CHexEscape(text.substr(0, 40)),
                     "\" is not a size; write a number of bytes, or one with K, M, G or T"));
  }
  if (number > (std::numeric_limits<uint64_t>::max() >> shift)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is too large"));
  }
  return number << shift;
}

std::string FormatByteSize(uint64_t bytes) {
  size_t suffix = 0;
  while (bytes != 0 && bytes % 1024 == 0 && suffix < kSuffixes.size()) {
    bytes /= 1024;
    ++suffix;
  }
  return suffix == 0 ? absl::StrCat(bytes) : absl::StrCat(bytes, kSuffixes.substr(suffix - 1, 1));
}

std::string RoundedByteSize(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.3g} {}", value, kUnits[unit]);
}

}  // namespace ferrite
