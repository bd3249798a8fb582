// PageBitmap against a std::set of page numbers: the input is a size and a list of operations.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "base/status.h"
#include "memory/page_bitmap.h"

namespace ferrite {
namespace {

// Numbers out of the input; zeroes when it has run out.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t Byte() { return empty() ? 0 : data_[at_++]; }
  uint64_t Below(uint64_t bound) {
    uint64_t number = Byte();
    number |= static_cast<uint64_t>(Byte()) << 8;
    return number % bound;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

class Model {
 public:
  explicit Model(uint64_t pages) : pages_(pages) {}

  bool Set(uint64_t page) { return !set_.insert(page).second; }
  bool Clear(uint64_t page) { return set_.erase(page) != 0; }
  bool Test(uint64_t page) const { return set_.contains(page); }
  uint64_t Count() const { return set_.size(); }
  std::optional<uint64_t> FindSet(uint64_t from) const {
    const auto found = set_.lower_bound(from);
    return found == set_.end() ? std::nullopt : std::optional<uint64_t>(*found);
  }
  std::optional<uint64_t> FindClear(uint64_t from) const {
    for (uint64_t page = from; page < pages_; ++page) {
      if (!Test(page)) {
        return page;
      }
    }
    return std::nullopt;
  }
  void TakeInto(Model& other) {
    other.set_.insert(set_.begin(), set_.end());
    set_.clear();
  }

 private:
  uint64_t pages_;
  std::set<uint64_t> set_;
};

void CheckEqual(const PageBitmap& bitmap, const Model& model) {
  FERRITE_CHECK(bitmap.Count() == model.Count());
  FERRITE_CHECK(bitmap.FindSet(0).has_value() == (model.Count() > 0));
  for (uint64_t page = 0; page < bitmap.pages(); ++page) {
    FERRITE_CHECK(bitmap.Test(page) == model.Test(page));
    FERRITE_CHECK(((bitmap.Word(page / 64) >> (page % 64)) & 1) == (model.Test(page) ? 1 : 0));
  }
}

void RunOperations(Source& source) {
  const uint64_t pages = 1 + source.Below(700);
  PageBitmap bitmap(pages);
  PageBitmap taken(pages);
  Model model(pages);
  Model taken_model(pages);
  while (!source.empty()) {
    switch (source.Byte() % 9) {
      case 0: {
        const uint64_t page = source.Below(pages);
        FERRITE_CHECK(bitmap.Set(page) == model.Set(page));
        break;
      }
      case 1: {
        const uint64_t page = source.Below(pages);
        FERRITE_CHECK(bitmap.Clear(page) == model.Clear(page));
        break;
      }
      case 2: {
        const uint64_t first = source.Below(pages + 1);
        const uint64_t count = source.Below(pages - first + 1);
        bitmap.SetRange(first, count);
        for (uint64_t page = first; page < first + count; ++page) {
          model.Set(page);
        }
        break;
      }
      case 3: {
        const uint64_t first = source.Below(pages + 1);
        const uint64_t count = source.Below(pages - first + 1);
        bitmap.ClearRange(first, count);
        for (uint64_t page = first; page < first + count; ++page) {
          model.Clear(page);
        }
        break;
      }
      case 4: {
        const uint64_t from = source.Below(pages + 70);
        FERRITE_CHECK(bitmap.FindSet(from) == model.FindSet(from));
        break;
      }
      case 5: {
        const uint64_t from = source.Below(pages + 70);
        FERRITE_CHECK(bitmap.FindClear(from) == model.FindClear(from));
        break;
      }
      case 6:
        bitmap.TakeInto(taken);
        model.TakeInto(taken_model);
        break;
      case 7: {
        // As many words as the bitmap has, fewer, or more.
        std::vector<uint64_t> words(source.Below(bitmap.words() + 2));
        for (uint64_t i = 0; i < words.size(); ++i) {
          words[i] = 0x0101'0101'0101'0101u * source.Byte();
          for (uint64_t page = i * 64; page < pages && page < (i + 1) * 64; ++page) {
            if ((words[i] >> (page % 64)) & 1) {
              model.Set(page);
            }
          }
        }
        bitmap.OrWords(words);
        break;
      }
      default:
        bitmap.ClearAll();
        model = Model(pages);
        break;
    }
  }
  CheckEqual(bitmap, model);
  CheckEqual(taken, taken_model);
}

}  // namespace
}  // namespace ferrite

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ferrite::Source source(data, size);
  ferrite::RunOperations(source);
  return 0;
}
