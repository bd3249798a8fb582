#include "base/mapping.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {

absl::StatusOr<Mapping> Mapping::Create(absl::string_view what, size_t bytes, int flags, int fd, off_t offset,
                                        size_t alignment) {
  const int anonymous = fd < 0 ? MAP_ANONYMOUS : 0;
  void* hint = nullptr;
  int fixed = 0;
  Mapping reserved;
  if (alignment > 0) {
    // Reserve more than is needed, then map over the aligned part of it.
    const size_t room = bytes + alignment;
    void* base = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      return ErrnoStatus(absl::StrCat("reserve ", room, " bytes of address space for ", what));
    }
    const auto start = reinterpret_cast<uintptr_t>(base);
    const uintptr_t aligned = (start + alignment - 1) & ~(alignment - 1);
    if (aligned > start) {
      munmap(base, aligned - start);
    }
    if (const size_t rest = start + room - (aligned + bytes); rest > 0) {
      munmap(reinterpret_cast<void*>(aligned + bytes), rest);
    }
    hint = reinterpret_cast<void*>(aligned);
    fixed = MAP_FIXED;
    reserved = Mapping(static_cast<uint8_t*>(hint), bytes);
  }
  void* data = mmap(hint, bytes, PROT_READ | PROT_WRITE, flags | anonymous | fixed, fd, offset);
  if (data == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("map ", bytes, " bytes of ", what));
  }
  reserved.data_ = nullptr;
  reserved.size_ = 0;
  return Mapping(static_cast<uint8_t*>(data), bytes);
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(borrowed_, other.borrowed_);
  return *this;
}

Mapping::~Mapping() {
  if (size_ > 0 && !borrowed_) {
    munmap(data_, size_);
  }
}

}  // namespace ferrite
