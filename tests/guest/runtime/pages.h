// Content for pages that can be told from any other page's and any other generation's.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_PAGES_H_
#define FERRITE_TESTS_GUEST_RUNTIME_PAGES_H_

#include <cstdint>

namespace guest {

inline constexpr uint64_t kWordsInPage = 512;

struct PageContent {
  uint64_t seed;
  uint64_t page;
  uint64_t generation;
};

// The word at `index` of a page: incompressible.
inline uint64_t ContentWord(const PageContent& content, uint64_t index) {
  uint64_t word = (content.seed ^ content.page << 20 ^ content.generation << 44) + index * 0x9e3779b97f4a7c15;
  word = (word ^ word >> 29) * 0xbf58476d1ce4e5b9;
  return word ^ word >> 32;
}

// Writes the words [from, kWordsInPage).
inline void FillPage(volatile uint64_t* words, const PageContent& content, uint64_t from) {
  for (uint64_t i = from; i < kWordsInPage; ++i) {
    words[i] = ContentWord(content, i);
  }
}

// The first word in [from, kWordsInPage) that is not as FillPage() wrote it, or kWordsInPage.
inline uint64_t CheckPage(const volatile uint64_t* words, const PageContent& content, uint64_t from) {
  for (uint64_t i = from; i < kWordsInPage; ++i) {
    if (words[i] != ContentWord(content, i)) {
      return i;
    }
  }
  return kWordsInPage;
}

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_PAGES_H_
