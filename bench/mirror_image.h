// The disk image that mirrors are measured with, and what is looked at of a copy.
#ifndef FERRITE_BENCH_MIRROR_IMAGE_H_
#define FERRITE_BENCH_MIRROR_IMAGE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferrite {

// A raw image, of which a half is holes, a quarter is zeroes that were written, and a quarter is data that does not
// compress. The first eighth is data in one piece; behind it 1 MiB of data, 2 MiB of zeroes and 4 MiB of hole follow
// each other.
struct MirrorImage {
  static constexpr uint64_t kLeastMib = 64;

  uint64_t bytes = 0;

  uint64_t data_bytes() const { return bytes / 4; }
  uint64_t zero_bytes() const { return bytes / 4; }
  // What is data in one piece, from the start.
  uint64_t solid_bytes() const { return bytes / 8; }

  // Makes the file, which must not be there, and has it on the disk. `bytes` is a multiple of 64 MiB.
  absl::Status Make(const std::string& path) const;
};

// Makes a file of holes.
absl::Status MakeSparseFile(const std::string& path, uint64_t bytes);
// Writes out what is dirty of the file, and reads all that it has: it is in the page cache then.
absl::Status WarmFile(const std::string& path);
absl::Status SyncFile(const std::string& path);
// What the file takes of its file system.
absl::StatusOr<uint64_t> AllocatedBytes(const std::string& path);
// DATA_LOSS when they are not the same; says where.
absl::Status ExpectSame(const std::string& source, const std::string& copy);

// A copy as it is made with as little as possible: one thread reads what the file has (SEEK_DATA) in blocks of 1 MiB
// and writes what is not zero, by units of 64 KiB; at last fdatasync(2). `copy` is as MakeSparseFile() makes it. The
// bytes that were written.
absl::StatusOr<uint64_t> CopyBarely(const std::string& source, const std::string& copy);

}  // namespace ferrite

#endif  // FERRITE_BENCH_MIRROR_IMAGE_H_
