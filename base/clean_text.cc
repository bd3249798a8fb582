#include "base/clean_text.h"

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

constexpr absl::string_view kMore = "...";

// The character that `text` begins with, and its length in bytes; no length: it begins with none (Unicode 15, table
// 3-7: no surrogates, nothing above U+10FFFF, no longer form than needed).
struct Character {
  uint32_t code = 0;
  size_t bytes = 0;
};

Character FirstOf(absl::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) {
    return {first, 1};
  }
  const size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < bytes) {
    return {};
  }
  uint32_t code = first & (0xffU >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<uint8_t>(text[i]);
    if ((next & 0xc0) != 0x80) {
      return {};
    }
    code = code << 6 | (next & 0x3fU);
  }
  constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[bytes] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
    return {};
  }
  return {code, bytes};
}

bool MayBeShown(uint32_t code) {
  return code >= 0x20 && (code < 0x7f || code > 0x9f) &&  // C0, DEL, C1
         code != 0x61c && code != 0x200e && code != 0x200f && (code < 0x2028 || code > 0x202e) &&
         (code < 0x2066 || code > 0x2069);
}

std::string Clean(absl::string_view text, size_t most, bool keeps_lines) {
  std::string shown;
  size_t whole = 0;  // of `shown`, as much as leaves room for kMore
  while (!text.empty()) {
    const Character next = FirstOf(text);
    if ((next.bytes != 0 && MayBeShown(next.code)) || (keeps_lines && next.code == '\n')) {
      absl::StrAppend(&shown, text.substr(0, next.bytes));
    } else {
      shown.push_back('?');
    }
    text.remove_prefix(next.bytes == 0 ? 1 : next.bytes);
    if (shown.size() > most) {
      shown.resize(whole);
      absl::StrAppend(&shown, kMore);
      return shown;
    }
    if (shown.size() <= most - kMore.size()) {
      whole = shown.size();
    }
  }
  return shown;
}

}  // namespace

std::string CleanText(absl::string_view text, size_t most) { return Clean(text, most, /*keeps_lines=*/false); }

std::string CleanLines(absl::string_view text, size_t most) { return Clean(text, most, /*keeps_lines=*/true); }

bool IsClean(absl::string_view text) {
  while (!text.empty()) {
    const Character next = FirstOf(text);
    if (next.bytes == 0 || !MayBeShown(next.code)) {
      return false;
    }
    text.remove_prefix(next.bytes);
  }
  return true;
}

}  // namespace ferrite
