// One bit for each 4 KiB page of a region, in the layout of KVM_GET_DIRTY_LOG (bit n of word n / 64 is page n).
#ifndef FERRITE_MEMORY_PAGE_BITMAP_H_
#define FERRITE_MEMORY_PAGE_BITMAP_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace ferrite {

// A bitmap of fixed size. Threads: Set, Clear, Test, SetRange, ClearRange, TakeInto and OrWords may race with one
// another (each bit is atomic, a range is not); the rest wants a quiet bitmap.
class PageBitmap {
 public:
  explicit PageBitmap(uint64_t pages);

  uint64_t pages() const { return pages_; }
  uint64_t words() const { return (pages_ + 63) / 64; }

  bool Test(uint64_t page) const;
  // Both return whether the bit was set before.
  bool Set(uint64_t page);
  bool Clear(uint64_t page);
  // [first, first + count); the range must lie inside.
  void SetRange(uint64_t first, uint64_t count);
  void ClearRange(uint64_t first, uint64_t count);
  void ClearAll();

  uint64_t Count() const;
  // The first set (clear) page at or after `from`.
  std::optional<uint64_t> FindSet(uint64_t from) const;
  std::optional<uint64_t> FindClear(uint64_t from) const;

  // Adds all bits to `other` (of the same size) and clears them here, word by word with an atomic exchange: a bit that
  // is set meanwhile is in one of the two.
  void TakeInto(PageBitmap& other);
  // Sets the bits of `words` (KVM's layout; bits past the end are ignored).
  void OrWords(std::span<const uint64_t> words);
  uint64_t Word(uint64_t index) const { return words_[index].load(std::memory_order_relaxed); }

 private:
  uint64_t pages_;
  std::unique_ptr<std::atomic<uint64_t>[]> words_;
};

}  // namespace ferrite

#endif  // FERRITE_MEMORY_PAGE_BITMAP_H_
