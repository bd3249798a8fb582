#include "bench/mirror_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kBlock = kMiB;
constexpr uint64_t kZeroUnit = 64 << 10;
absl::Status WriteAt(const Fd& file, const std::string& path, const uint8_t* data, uint64_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t written = pwrite(file.get(), data, bytes, static_cast<off_t>(offset));
    if (written <= 0) {
      return ErrnoStatus(absl::StrCat("write ", path));
    }
    data += written;
    offset += static_cast<uint64_t>(written);
    bytes -= static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::Status ReadAt(const Fd& file, const std::string& path, uint8_t* data, uint64_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t read = pread(file.get(), data, bytes, static_cast<off_t>(offset));
    if (read <= 0) {
      return read == 0 ? absl::DataLossError(absl::StrCat(path, " ends at ", offset))
                       : ErrnoStatus(absl::StrCat("read ", path));
    }
    data += read;
    offset += static_cast<uint64_t>(read);
    bytes -= static_cast<uint64_t>(read);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SizeOf(const Fd& file, const std::string& path) {
  struct stat info = {};
  return fstat(file.get(), &info) == 0 ? absl::StatusOr<uint64_t>(static_cast<uint64_t>(info.st_size))
                                       : ErrnoStatus(absl::StrCat("size of ", path));
}

// Calls `use` with each piece of at most a block that one of the files has data in.
absl::Status ForEachPiece(const std::vector<const Fd*>& files, uint64_t size,
                          const std::function<absl::Status(uint64_t offset, uint64_t bytes)>& use) {
  for (uint64_t offset = 0; offset < size;) {
    uint64_t data = size;
    for (const Fd* file : files) {
      const off_t found = lseek(file->get(), static_cast<off_t>(offset), SEEK_DATA);
      if (found < 0 && errno != ENXIO) {
        return ErrnoStatus("look for data");
      }
      data = found < 0 ? data : std::min(data, static_cast<uint64_t>(found));
    }
    uint64_t end = std::min(data + kBlock - data % kBlock, size);
    if (files.size() == 1 && data < size) {
      const off_t hole = lseek(files[0]->get(), static_cast<off_t>(data), SEEK_HOLE);
      end = hole < 0 ? end : std::min(end, static_cast<uint64_t>(hole));
    }
    if (data < end) {
      FERRITE_RETURN_IF_ERROR(use(data, end - data));
    }
    offset = end;
  }
  return absl::OkStatus();
}

bool IsZero(const uint8_t* data, uint64_t bytes) {
  return bytes == 0 || (data[0] == 0 && std::memcmp(data, data + 1, bytes - 1) == 0);
}

}  // namespace

absl::Status MirrorImage::Make(const std::string& path) const {
  constexpr uint64_t kDataMib = 1;
  constexpr uint64_t kZeroMib = 2;
  constexpr uint64_t kPeriodMib = 7;
  FERRITE_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600));
  if (ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(absl::StrCat("make ", path));
  }
  std::vector<uint8_t> data(kBlock);
  std::vector<uint8_t> zeroes(kBlock);
  uint64_t word = 0x9e3779b97f4a7c15;
  for (uint64_t mib = 0; mib < bytes / kMiB; ++mib) {
    const uint64_t solid = solid_bytes() / kMiB;
    const uint64_t at = mib < solid ? 0 : (mib - solid) % kPeriodMib;
    if (at >= kDataMib + kZeroMib) {
      continue;
    }
    if (at < kDataMib) {
      for (uint64_t i = 0; i < kBlock; i += sizeof(word)) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        std::memcpy(data.data() + i, &word, sizeof(word));
      }
    }
    FERRITE_RETURN_IF_ERROR(WriteAt(file, path, at < kDataMib ? data.data() : zeroes.data(), kBlock, mib * kMiB));
  }
  return fsync(file.get()) == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("write out ", path));
}

absl::Status MakeSparseFile(const std::string& path, uint64_t bytes) {
  FERRITE_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600));
  return ftruncate(file.get(), static_cast<off_t>(bytes)) == 0 ? absl::OkStatus()
                                                               : ErrnoStatus(absl::StrCat("make ", path));
}

absl::Status WarmFile(const std::string& path) {
  FERRITE_RETURN_IF_ERROR(SyncFile(path));
  FERRITE_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_RDONLY));
  FERRITE_ASSIGN_OR_RETURN(const uint64_t size, SizeOf(file, path));
  std::vector<uint8_t> block(kBlock);
  return ForEachPiece({&file}, size,
                      [&](uint64_t offset, uint64_t bytes) { return ReadAt(file, path, block.data(), bytes, offset); });
}

absl::Status SyncFile(const std::string& path) {
  FERRITE_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_RDWR));
  return fdatasync(file.get()) == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("write out ", path));
}

absl::StatusOr<uint64_t> AllocatedBytes(const std::string& path) {
  constexpr uint64_t kStatUnit = 512;
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) {
    return ErrnoStatus(path);
  }
  return static_cast<uint64_t>(info.st_blocks) * kStatUnit;
}

absl::Status ExpectSame(const std::string& source, const std::string& copy) {
  FERRITE_ASSIGN_OR_RETURN(const Fd first, OpenFile(source, O_RDONLY));
  FERRITE_ASSIGN_OR_RETURN(const Fd second, OpenFile(copy, O_RDONLY));
  FERRITE_ASSIGN_OR_RETURN(const uint64_t size, SizeOf(first, source));
  FERRITE_ASSIGN_OR_RETURN(const uint64_t size_of_copy, SizeOf(second, copy));
  if (size != size_of_copy) {
    return absl::DataLossError(absl::StrCat(copy, " has ", size_of_copy, " bytes, ", source, " ", size));
  }
  std::vector<uint8_t> block(kBlock);
  std::vector<uint8_t> block_of_copy(kBlock);
  return ForEachPiece({&first, &second}, size, [&](uint64_t offset, uint64_t bytes) -> absl::Status {
    FERRITE_RETURN_IF_ERROR(ReadAt(first, source, block.data(), bytes, offset));
    FERRITE_RETURN_IF_ERROR(ReadAt(second, copy, block_of_copy.data(), bytes, offset));
    return std::memcmp(block.data(), block_of_copy.data(), bytes) == 0
               ? absl::OkStatus()
               : absl::DataLossError(
                     absl::StrCat(copy, " is not as ", source, " in ", bytes, " bytes from ", offset, " on"));
  });
}

absl::StatusOr<uint64_t> CopyBarely(const std::string& source, const std::string& copy) {
  FERRITE_ASSIGN_OR_RETURN(const Fd from, OpenFile(source, O_RDONLY));
  FERRITE_ASSIGN_OR_RETURN(const Fd to, OpenFile(copy, O_RDWR));
  FERRITE_ASSIGN_OR_RETURN(const uint64_t size, SizeOf(from, source));
  std::vector<uint8_t> block(kBlock);
  uint64_t written = 0;
  FERRITE_RETURN_IF_ERROR(ForEachPiece({&from}, size, [&](uint64_t offset, uint64_t bytes) -> absl::Status {
    FERRITE_RETURN_IF_ERROR(ReadAt(from, source, block.data(), bytes, offset));
    // Neighbouring units go as one.
    uint64_t begin = 0;
    for (uint64_t at = 0; at <= bytes; at += kZeroUnit) {
      const uint64_t unit = at < bytes ? std::min(kZeroUnit, bytes - at) : 0;
      if (unit == 0 || IsZero(block.data() + at, unit)) {
        const uint64_t end = std::min(at, bytes);
        FERRITE_RETURN_IF_ERROR(WriteAt(to, copy, block.data() + begin, end - begin, offset + begin));
        written += end - begin;
        begin = at + unit;
      }
    }
    return absl::OkStatus();
  }));
  return fdatasync(to.get()) == 0 ? absl::StatusOr<uint64_t>(written) : ErrnoStatus(absl::StrCat("write out ", copy));
}

}  // namespace ferrite
