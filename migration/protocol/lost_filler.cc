#include "migration/protocol/lost_filler.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace ferrite::migration {
namespace {

constexpr std::array<uint8_t, 4096> kFiller = [] {
  constexpr char kWord[] = "LOSTPAGE";
  std::array<uint8_t, 4096> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(kWord[i % 8]);
  }
  return bytes;
}();

}  // namespace

std::span<const uint8_t> LostFiller() { return kFiller; }

bool IsLostFiller(std::span<const uint8_t> page) {
  return std::equal(page.begin(), page.end(), kFiller.begin(), kFiller.end());
}

}  // namespace ferrite::migration
