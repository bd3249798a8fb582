// One bit for each chunk of a disk, of which the next set one is found without reading all.
#ifndef FERRITE_MIGRATION_SENDING_CHUNK_BITMAP_H_
#define FERRITE_MIGRATION_SENDING_CHUNK_BITMAP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"

namespace ferrite::migration {

// A bitmap of fixed size, in levels: a bit of a level says that a word of the level below it is not 0. (Follows
// util/hbitmap.c of QEMU.) Memory: one bit for a chunk and 1/63 more, of which what was never set takes none of the
// host's. Threads: one at a time.
class ChunkBitmap {
 public:
  static constexpr uint64_t kMostChunks = uint64_t{1} << 31;

  // All clear. INVALID_ARGUMENT for none and for more than kMostChunks, RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<ChunkBitmap> Create(uint64_t chunks);

  uint64_t chunks() const { return chunks_; }
  // Of those that are set.
  uint64_t count() const { return count_; }

  bool Test(uint64_t chunk) const;
  // [first, first + count), which lies inside; a word at a time. How many were not so before.
  uint64_t SetRange(uint64_t first, uint64_t count);
  uint64_t ClearRange(uint64_t first, uint64_t count);

  // The first set one at or after `from`.
  std::optional<uint64_t> FindSet(uint64_t from) const;
  // The first clear one in [from, end), else `end`; `end` is not past the last chunk. Reads what is set before it.
  uint64_t FindClear(uint64_t from, uint64_t end) const;
  // How many are set in both, which are of one size. Reads no word that is 0 in one of them.
  static uint64_t CountCommon(const ChunkBitmap& a, const ChunkBitmap& b);

 private:
  static constexpr size_t kMostLevels = 6;
  struct Free {
    void operator()(uint64_t* words) const { std::free(words); }
  };

  ChunkBitmap() = default;
  uint64_t& Word(size_t level, uint64_t index) const { return words_.get()[starts_[level] + index]; }
  // Of the words [first, last] of `level`, all not 0 by now.
  void SetAbove(size_t level, uint64_t first, uint64_t last);
  // Of the words [first, last] of `level`, all 0 by now but perhaps the first and the last one.
  void ClearAbove(size_t level, uint64_t first, uint64_t last);
  static uint64_t CountCommon(const ChunkBitmap& a, const ChunkBitmap& b, size_t level, uint64_t index);

  uint64_t chunks_ = 0;
  uint64_t count_ = 0;
  size_t levels_ = 0;                           // the last one has one word
  std::array<uint64_t, kMostLevels> starts_{};  // in words_
  std::unique_ptr<uint64_t, Free> words_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CHUNK_BITMAP_H_
