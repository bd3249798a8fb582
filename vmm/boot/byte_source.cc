#include "vmm/boot/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/own_memory.h"
#include "base/status.h"

namespace ferrite {

namespace {

absl::Status CheckRange(uint64_t size, uint64_t offset, uint64_t bytes) {
  if (offset > size || bytes > size - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("is truncated: ", bytes, " bytes at offset ", offset, " are missing from its ", size, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileSource>> FileSource::Open(absl::string_view what, const PinnedFile& file) {
  const std::string name = absl::StrCat(what, " ", file.path());
  struct stat info = {};
  if (fstat(file.fd(), &info) != 0) {
    return ErrnoStatus(name);
  }
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is a directory"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not a regular file"));
  }
  if (info.st_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is empty"));
  }
  Fd fd = file.Open(O_RDONLY);
  if (!fd.valid()) {
    return ErrnoStatus(name);
  }
  return std::unique_ptr<FileSource>(new FileSource(std::move(fd), static_cast<uint64_t>(info.st_size)));
}

absl::Status FileSource::Read(uint64_t offset, std::span<uint8_t> out) const {
  FERRITE_RETURN_IF_ERROR(CheckRange(size_, offset, out.size()));
  while (!out.empty()) {
    const ssize_t count = pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      const int error = errno;
      const absl::Status status = ErrnoStatus(error, "cannot be read");
      return absl::Status(status.code(), absl::StrCat(status.message(), OwnMemoryWords(error)));
    }
    if (count == 0) {
      return absl::InvalidArgumentError("became shorter while it was read");
    }
    offset += static_cast<uint64_t>(count);
    out = out.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CopySource>> CopySource::Read(const ByteSource& from) {
  FERRITE_ASSIGN_OR_RETURN(Mapping bytes,
                           Mapping::Create("memory for a file", from.size(), MAP_PRIVATE | MAP_ANONYMOUS));
  FERRITE_RETURN_IF_ERROR(from.Read(0, bytes.span()));
  return std::unique_ptr<CopySource>(new CopySource(std::move(bytes)));
}

absl::Status CopySource::Read(uint64_t offset, std::span<uint8_t> out) const {
  FERRITE_RETURN_IF_ERROR(CheckRange(size(), offset, out.size()));
  std::ranges::copy(bytes().subspan(offset, out.size()), out.begin());
  return absl::OkStatus();
}

}  // namespace ferrite
