#include "migration/sending/chunk_bitmap.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBits = 64;
constexpr uint64_t kAllOnes = ~uint64_t{0};

uint64_t WordsFor(uint64_t bits) { return (bits + kBits - 1) / kBits; }

// Calls `apply(word, mask)` for each word that [first, first + count) touches.
template <typename Apply>
void ForEachWord(uint64_t first, uint64_t count, Apply apply) {
  const uint64_t end = first + count;
  while (first < end) {
    const uint64_t word = first / kBits;
    const uint64_t start = word * kBits;
    uint64_t mask = kAllOnes << (first - start);
    if (end - start < kBits) {
      mask &= ~(kAllOnes << (end - start));
    }
    apply(word, mask);
    first = start + kBits;
  }
}

}  // namespace

absl::StatusOr<ChunkBitmap> ChunkBitmap::Create(uint64_t chunks) {
  if (chunks == 0 || chunks > kMostChunks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a bitmap of ", chunks, " chunks: it may have 1 to ", kMostChunks, "; a larger granularity?"));
  }
  ChunkBitmap bitmap;
  bitmap.chunks_ = chunks;
  uint64_t words = 0;
  uint64_t level_words = chunks;
  do {
    level_words = WordsFor(level_words);
    FERRITE_CHECK(bitmap.levels_ < kMostLevels);
    bitmap.starts_[bitmap.levels_++] = words;
    words += level_words;
  } while (level_words > 1);
  // Zeroed memory of the host's, not touched yet where it is large.
  bitmap.words_.reset(static_cast<uint64_t*>(std::calloc(words, sizeof(uint64_t))));
  if (bitmap.words_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a bitmap of ", chunks, " chunks"));
  }
  return bitmap;
}

bool ChunkBitmap::Test(uint64_t chunk) const {
  FERRITE_CHECK(chunk < chunks_);
  return ((Word(0, chunk / kBits) >> (chunk % kBits)) & 1) != 0;
}

uint64_t ChunkBitmap::SetRange(uint64_t first, uint64_t count) {
  FERRITE_CHECK(count <= chunks_ && first <= chunks_ - count);
  if (count == 0) {
    return 0;
  }
  uint64_t changed = 0;
  ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
    uint64_t& word = Word(0, index);
    changed += static_cast<uint64_t>(std::popcount(mask & ~word));
    word |= mask;
  });
  count_ += changed;
  if (changed != 0) {
    SetAbove(0, first / kBits, (first + count - 1) / kBits);
  }
  return changed;
}

void ChunkBitmap::SetAbove(size_t level, uint64_t first, uint64_t last) {
  while (++level < levels_) {
    ForEachWord(first, last - first + 1, [&](uint64_t index, uint64_t mask) { Word(level, index) |= mask; });
    first /= kBits;
    last /= kBits;
  }
}

uint64_t ChunkBitmap::ClearRange(uint64_t first, uint64_t count) {
  FERRITE_CHECK(count <= chunks_ && first <= chunks_ - count);
  if (count == 0) {
    return 0;
  }
  uint64_t changed = 0;
  ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
    uint64_t& word = Word(0, index);
    changed += static_cast<uint64_t>(std::popcount(mask & word));
    word &= ~mask;
  });
  count_ -= changed;
  if (changed != 0) {
    ClearAbove(0, first / kBits, (first + count - 1) / kBits);
  }
  return changed;
}

void ChunkBitmap::ClearAbove(size_t level, uint64_t first, uint64_t last) {
  while (level + 1 < levels_) {
    if (Word(level, first) != 0) {
      ++first;
    }
    if (first <= last && Word(level, last) != 0) {
      --last;
    }
    if (first > last) {
      return;
    }
    ++level;
    ForEachWord(first, last - first + 1, [&](uint64_t index, uint64_t mask) { Word(level, index) &= ~mask; });
    first /= kBits;
    last /= kBits;
  }
}

std::optional<uint64_t> ChunkBitmap::FindSet(uint64_t from) const {
  if (from >= chunks_) {
    return std::nullopt;
  }
  uint64_t at = from;
  uint64_t level_bits = chunks_;
  for (size_t level = 0; level < levels_ && at < level_bits; ++level) {
    const uint64_t bits = Word(level, at / kBits) & (kAllOnes << (at % kBits));
    if (bits != 0) {
      at = at / kBits * kBits + static_cast<uint64_t>(std::countr_zero(bits));
      while (level > 0) {
        --level;
        at = at * kBits + static_cast<uint64_t>(std::countr_zero(Word(level, at)));
      }
      return at;
    }
    at = at / kBits + 1;
    level_bits = WordsFor(level_bits);
  }
  return std::nullopt;
}

uint64_t ChunkBitmap::FindClear(uint64_t from, uint64_t end) const {
  FERRITE_CHECK(end <= chunks_);
  while (from < end) {
    const uint64_t bits = ~Word(0, from / kBits) & (kAllOnes << (from % kBits));
    if (bits != 0) {
      return std::min(from / kBits * kBits + static_cast<uint64_t>(std::countr_zero(bits)), end);
    }
    from = (from / kBits + 1) * kBits;
  }
  return end;
}

uint64_t ChunkBitmap::CountCommon(const ChunkBitmap& a, const ChunkBitmap& b) {
  FERRITE_CHECK(a.chunks_ == b.chunks_);
  return CountCommon(a, b, a.levels_ - 1, 0);
}

uint64_t ChunkBitmap::CountCommon(const ChunkBitmap& a, const ChunkBitmap& b, size_t level, uint64_t index) {
  uint64_t bits = a.Word(level, index) & b.Word(level, index);
  if (level == 0) {
    return static_cast<uint64_t>(std::popcount(bits));
  }
  uint64_t count = 0;
  for (; bits != 0; bits &= bits - 1) {
    count += CountCommon(a, b, level - 1, index * kBits + static_cast<uint64_t>(std::countr_zero(bits)));
  }
  return count;
}

}  // namespace ferrite::migration
