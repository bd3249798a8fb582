#include "memory/page_bitmap.h"

#include <algorithm>
#include <bit>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint64_t kBitsPerWord = 64;
constexpr uint64_t kAllOnes = ~uint64_t{0};

// Bits are set with release and taken with acquire: who takes a bit sees what was written to the page before. This is
// also why Set() never skips the locked operation when the bit is set already: on x86, too, the load could overtake the
// store to the page, and the page's last bytes would be in no round of a move.
constexpr auto kMark = std::memory_order_acq_rel;

uint64_t BitOf(uint64_t page) { return uint64_t{1} << (page % kBitsPerWord); }

// Calls `apply(word, mask)` for each word that [first, first + count) touches.
template <typename Apply>
void ForEachWord(uint64_t first, uint64_t count, Apply apply) {
  const uint64_t end = first + count;
  while (first < end) {
    const uint64_t word = first / kBitsPerWord;
    const uint64_t word_start = word * kBitsPerWord;
    uint64_t mask = kAllOnes << (first - word_start);
    if (end - word_start < kBitsPerWord) {
      mask &= ~(kAllOnes << (end - word_start));
    }
    apply(word, mask);
    first = word_start + kBitsPerWord;
  }
}

}  // namespace

PageBitmap::PageBitmap(uint64_t pages)
    : pages_(pages), words_(std::make_unique<std::atomic<uint64_t>[]>((pages + kBitsPerWord - 1) / kBitsPerWord)) {}

bool PageBitmap::Test(uint64_t page) const {
  FERRITE_CHECK(page < pages_);
  return (words_[page / kBitsPerWord].load(std::memory_order_acquire) & BitOf(page)) != 0;
}

bool PageBitmap::Set(uint64_t page) {
  FERRITE_CHECK(page < pages_);
  return (words_[page / kBitsPerWord].fetch_or(BitOf(page), kMark) & BitOf(page)) != 0;
}

bool PageBitmap::Clear(uint64_t page) {
  FERRITE_CHECK(page < pages_);
  return (words_[page / kBitsPerWord].fetch_and(~BitOf(page), kMark) & BitOf(page)) != 0;
}

void PageBitmap::SetRange(uint64_t first, uint64_t count) {
  FERRITE_CHECK(count <= pages_ && first <= pages_ - count);
  ForEachWord(first, count, [this](uint64_t word, uint64_t mask) {
    if (mask == kAllOnes) {
      words_[word].store(kAllOnes, std::memory_order_release);
    } else {
      words_[word].fetch_or(mask, kMark);
    }
  });
}

void PageBitmap::ClearRange(uint64_t first, uint64_t count) {
  FERRITE_CHECK(count <= pages_ && first <= pages_ - count);
  ForEachWord(first, count, [this](uint64_t word, uint64_t mask) { words_[word].fetch_and(~mask, kMark); });
}

void PageBitmap::ClearAll() {
  for (uint64_t word = 0; word < words(); ++word) {
    words_[word].store(0, std::memory_order_relaxed);
  }
}

uint64_t PageBitmap::Count() const {
  uint64_t count = 0;
  for (uint64_t word = 0; word < words(); ++word) {
    count += static_cast<uint64_t>(std::popcount(Word(word)));
  }
  return count;
}

std::optional<uint64_t> PageBitmap::FindSet(uint64_t from) const {
  if (from >= pages_) {
    return std::nullopt;
  }
  uint64_t word = from / kBitsPerWord;
  uint64_t bits = Word(word) & (kAllOnes << (from % kBitsPerWord));
  while (bits == 0) {
    if (++word == words()) {
      return std::nullopt;
    }
    bits = Word(word);
  }
  return word * kBitsPerWord + static_cast<uint64_t>(std::countr_zero(bits));
}

std::optional<uint64_t> PageBitmap::FindClear(uint64_t from) const {
  if (from >= pages_) {
    return std::nullopt;
  }
  uint64_t word = from / kBitsPerWord;
  uint64_t bits = ~Word(word) & (kAllOnes << (from % kBitsPerWord));
  while (bits == 0) {
    if (++word == words()) {
      return std::nullopt;
    }
    bits = ~Word(word);
  }
  // The bits past the last page are always clear.
  const uint64_t page = word * kBitsPerWord + static_cast<uint64_t>(std::countr_zero(bits));
  return page < pages_ ? std::optional<uint64_t>(page) : std::nullopt;
}

void PageBitmap::TakeInto(PageBitmap& other) {
  FERRITE_CHECK(other.pages_ == pages_);
  for (uint64_t word = 0; word < words(); ++word) {
    // Most words are zero in a round; only the others pay for the locked operations.
    if (Word(word) == 0) {
      continue;
    }
    const uint64_t bits = words_[word].exchange(0, kMark);
    other.words_[word].fetch_or(bits, kMark);
  }
}

void PageBitmap::OrWords(std::span<const uint64_t> words) {
  const uint64_t full = pages_ / kBitsPerWord;
  for (uint64_t word = 0; word < std::min<uint64_t>(words.size(), this->words()); ++word) {
    uint64_t bits = words[word];
    if (word == full) {
      bits &= BitOf(pages_) - 1;
    }
    if (bits != 0) {
      words_[word].fetch_or(bits, kMark);
    }
  }
}

}  // namespace ferrite
