// Random access to a file's bytes, so that parsers see neither descriptors nor paths.
#ifndef FERRITE_VMM_BOOT_BYTE_SOURCE_H_
#define FERRITE_VMM_BOOT_BYTE_SOURCE_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/pinned_file.h"

namespace ferrite {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  // Fills `out` with the bytes at `offset`. INVALID_ARGUMENT when they reach past the end.
  virtual absl::Status Read(uint64_t offset, std::span<uint8_t> out) const = 0;

  template <typename T>
  absl::StatusOr<T> ReadObject(uint64_t offset) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (absl::Status status = Read(offset, {reinterpret_cast<uint8_t*>(&value), sizeof(T)}); !status.ok()) {
      return status;
    }
    return value;
  }
};

// A regular file. Its size is that of the moment it was opened; a file that shrinks afterwards is an error of Read().
class FileSource : public ByteSource {
 public:
  // Errors: open(2)'s, with the path; INVALID_ARGUMENT for an empty file, a directory or anything else that is not a
  // regular file, which is not opened. `what` names the file's part in the message: "kernel".
  static absl::StatusOr<std::unique_ptr<FileSource>> Open(absl::string_view what, const PinnedFile& file);

  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override;

 private:
  FileSource(Fd fd, uint64_t size) : fd_(std::move(fd)), size_(size) {}

  Fd fd_;
  uint64_t size_;
};

// The bytes that another source had when it was read: they do not change any more.
class CopySource : public ByteSource {
 public:
  static absl::StatusOr<std::unique_ptr<CopySource>> Read(const ByteSource& from);

  std::span<const uint8_t> bytes() const { return bytes_.span(); }
  uint64_t size() const override { return bytes_.size(); }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override;

 private:
  explicit CopySource(Mapping bytes) : bytes_(std::move(bytes)) {}

  Mapping bytes_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_BYTE_SOURCE_H_
