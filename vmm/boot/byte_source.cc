#include "vmm/boot/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "vmm/base/own_memory.h"
#include "vmm/base/status.h"

namespace ferrite {

absl::StatusOr<std::unique_ptr<FileSource>> FileSource::Open(absl::string_view what, const std::string& path) {
  const std::string name = absl::StrCat(what, " ", path);
  // Non-blocking, so that a FIFO is refused below and not waited for.
  auto fd = OpenFile(path, O_RDONLY | O_NONBLOCK);
  if (!fd.ok()) {
    return Annotate(fd.status(), what);
  }
  struct stat info;
  if (fstat(fd->get(), &info) != 0) {
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
  return std::unique_ptr<FileSource>(new FileSource(*std::move(fd), static_cast<uint64_t>(info.st_size)));
}

absl::Status FileSource::Read(uint64_t offset, std::span<uint8_t> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return absl::InvalidArgumentError(absl::StrCat("is truncated: ", out.size(), " bytes at offset ", offset,
                                                   " are missing from its ", size_, " bytes"));
  }
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

}  // namespace ferrite
