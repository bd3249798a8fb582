// A journal of numbered blocks on a disk, of which an image tells by itself whether something is missing that was
// flushed, or is there too early: the format, for the guests that write it and for who looks at an image.
//
// Blocks are written in batches; each has its number and the last number of which its writer knew that it is flushed. A
// batch is written after the one before it was flushed. The journal goes round: a block lies in the slot of its number.
#ifndef FERRITE_TESTS_GUEST_JOURNAL_BLOCKS_H_
#define FERRITE_TESTS_GUEST_JOURNAL_BLOCKS_H_

#include <cstdint>

#include "tests/guest/runtime/pages.h"

namespace guest {

inline constexpr uint64_t kJournalBlockBytes = 4096;
inline constexpr uint64_t kJournalBatch = 8;

// `slots` is a power of two: of so many numbers in a row each has another one, and neighbours are far from each other.
inline uint64_t JournalSlot(uint64_t number, uint64_t slots) { return number * 0x9e3779b1 % slots; }

inline PageContent JournalContent(uint64_t number, uint64_t flushed) {
  return {.seed = flushed * 0xd6e8feb86659fd93, .page = 1, .generation = number};
}

// The first two words are the numbers, the others say that the block is whole.
inline void FillJournalBlock(volatile uint64_t* words, uint64_t number, uint64_t flushed) {
  words[0] = number;
  words[1] = flushed;
  FillPage(words, JournalContent(number, flushed), 2);
}

// What is in the slots of an image. `numbers` has room for each slot; 0: nothing was written there.
struct JournalAudit {
  uint64_t* numbers;
  uint64_t slots;
  uint64_t last = 0;     // number
  uint64_t flushed = 0;  // number, as the blocks know it
  uint64_t broken = 0;   // blocks that are not whole, or lie in the slot of another one

  void See(uint64_t slot, const volatile uint64_t* words) {
    const uint64_t number = words[0];
    const uint64_t known = words[1];
    numbers[slot] = number;
    bool whole = number != 0 && JournalSlot(number, slots) == slot &&
                 CheckPage(words, JournalContent(number, known), 2) == kWordsInPage;
    if (number == 0) {
      whole = true;
      for (uint64_t i = 0; i < kWordsInPage; ++i) {
        whole = whole && words[i] == 0;
      }
    }
    if (!whole) {
      ++broken;
      return;
    }
    last = number > last ? number : last;
    flushed = known > flushed ? known : flushed;
  }
  // How many of the numbers up to `number` are not there, and nothing newer in their place.
  uint64_t MissingUpTo(uint64_t number) const {
    uint64_t missing = 0;
    for (uint64_t i = number > slots ? number - slots + 1 : 1; i <= number; ++i) {
      missing += numbers[JournalSlot(i, slots)] < i ? 1 : 0;
    }
    return missing;
  }
  // Whether it is the disk as it was at one instant.
  bool IsOfOneInstant() const { return broken == 0 && MissingUpTo(flushed) == 0 && last <= flushed + kJournalBatch; }
};

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_JOURNAL_BLOCKS_H_
