// Owned memory mappings.
#ifndef FERRITE_BASE_MAPPING_H_
#define FERRITE_BASE_MAPPING_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// A range of the address space that mmap(2) gave and that is unmapped with its owner, or that is borrowed. Move-only;
// empty by default.
class Mapping {
 public:
  // mmap(2) of `bytes` with PROT_READ | PROT_WRITE. `fd` is -1 for anonymous memory; `what` names it in the error.
  // `alignment` (a power of two, 0 for none) is met by mapping more and giving the rest back: huge pages need it.
  static absl::StatusOr<Mapping> Create(absl::string_view what, size_t bytes, int flags, int fd = -1, off_t offset = 0,
                                        size_t alignment = 0);

  // A range that somebody else has mapped, and unmaps when this is gone.
  static Mapping Borrow(std::span<uint8_t> range) {
    Mapping mapping(range.data(), range.size());
    mapping.borrowed_ = true;
    return mapping;
  }

  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        borrowed_(std::exchange(other.borrowed_, false)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<uint8_t> span() const { return {data_, size_}; }

 private:
  Mapping(uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  bool borrowed_ = false;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_MAPPING_H_
