// ChunkBitmap against a std::set of chunk numbers: the input is a size and a list of operations.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>

#include "base/status.h"
#include "migration/sending/chunk_bitmap.h"

namespace ferrite::migration {
namespace {

// Numbers out of the input; zeroes when it has run out.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t Byte() { return empty() ? 0 : data_[at_++]; }
  // Often at the edge of a word.
  uint64_t Below(uint64_t bound) {
    uint64_t number = Byte();
    number |= static_cast<uint64_t>(Byte()) << 8;
    number |= static_cast<uint64_t>(Byte()) << 16;
    return (Byte() % 4 == 0 ? number / 64 * 64 : number) % bound;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

using Model = std::set<uint64_t>;

std::optional<uint64_t> FindSet(const Model& model, uint64_t from) {
  const auto found = model.lower_bound(from);
  return found == model.end() ? std::nullopt : std::optional<uint64_t>(*found);
}

uint64_t FindClear(const Model& model, uint64_t from, uint64_t end) {
  auto at = model.lower_bound(from);
  while (from < end && at != model.end() && *at == from) {
    ++from;
    ++at;
  }
  return from < end ? from : end;
}

void CheckEqual(const ChunkBitmap& bitmap, const Model& model) {
  FERRITE_CHECK(bitmap.count() == model.size());
  uint64_t from = 0;
  for (const uint64_t chunk : model) {
    FERRITE_CHECK(bitmap.FindSet(from) == chunk);
    FERRITE_CHECK(bitmap.Test(chunk));
    from = chunk + 1;
  }
  FERRITE_CHECK(!bitmap.FindSet(from).has_value());
}

void RunOperations(Source& source) {
  // One level to four.
  const uint64_t chunks = 1 + source.Below(source.Byte() % 2 == 0 ? 300 : 300'000);
  ChunkBitmap bitmap = *ChunkBitmap::Create(chunks);
  ChunkBitmap other = *ChunkBitmap::Create(chunks);
  Model model, other_model;
  while (!source.empty()) {
    const uint8_t what = source.Byte();
    ChunkBitmap& changed = (what & 0x80) != 0 ? other : bitmap;
    Model& changed_model = (what & 0x80) != 0 ? other_model : model;
    const uint64_t first = source.Below(chunks);
    const uint64_t most = chunks - first;
    const uint64_t count = source.Below((source.Byte() % 4 == 0 && most > 5000 ? 5000 : most < 100 ? most : 100) + 1);
    uint64_t difference = 0;
    switch (what % 4) {
      case 0:
        for (uint64_t chunk = first; chunk < first + count; ++chunk) {
          difference += changed_model.insert(chunk).second ? 1 : 0;
        }
        FERRITE_CHECK(changed.SetRange(first, count) == difference);
        break;
      case 1:
        for (uint64_t chunk = first; chunk < first + count; ++chunk) {
          difference += changed_model.erase(chunk);
        }
        FERRITE_CHECK(changed.ClearRange(first, count) == difference);
        break;
      case 2:
        FERRITE_CHECK(changed.FindSet(first) == FindSet(changed_model, first));
        FERRITE_CHECK(changed.FindClear(first, first + count) == FindClear(changed_model, first, first + count));
        break;
      default:
        for (const uint64_t chunk : model) {
          difference += other_model.count(chunk);
        }
        FERRITE_CHECK(ChunkBitmap::CountCommon(bitmap, other) == difference);
        break;
    }
  }
  CheckEqual(bitmap, model);
  CheckEqual(other, other_model);
}

}  // namespace
}  // namespace ferrite::migration

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ferrite::migration::Source source(data, size);
  ferrite::migration::RunOperations(source);
  return 0;
}
