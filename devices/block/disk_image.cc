#include "devices/block/disk_image.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "devices/block/image_lock.h"

namespace ferrite {
namespace {

struct OpenImage {
  Fd fd;
  uint64_t sectors = 0;
};

absl::Status NoImage(const std::string& path, const struct stat& info) {
  return absl::InvalidArgumentError(absl::StrCat("disk image ", path, " is ",
                                                 S_ISDIR(info.st_mode) ? "a directory" : "a special file",
                                                 "; give a raw image file or a block device"));
}

absl::StatusOr<uint64_t> SizeOf(const Fd& fd, const std::string& path) {
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) {
    return ErrnoStatus(absl::StrCat("disk image ", path));
  }
  if (S_ISREG(info.st_mode)) {
    return static_cast<uint64_t>(info.st_size);
  }
  if (S_ISBLK(info.st_mode)) {
    uint64_t bytes = 0;
    if (ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) {
      return ErrnoStatus(absl::StrCat("size of the block device ", path));
    }
    return bytes;
  }
  return NoImage(path, info);
}

absl::Status CannotOpen(int error, const std::string& path, bool read_only) {
  const bool not_for_writing = !read_only && (error == EACCES || error == EPERM || error == EROFS);
  return ErrnoStatus(
      error, absl::StrCat("disk image ", path,
                          not_for_writing ? " cannot be opened for writing (a read-only disk needs less)" : ""));
}

// Looks at an image that was opened, and makes it wait for the disk.
absl::StatusOr<OpenImage> Take(Fd fd, const std::string& path) {
  OpenImage image{.fd = std::move(fd)};
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(image.fd, path));
  if (bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk image ", path, " is empty; make it larger with: truncate -s 1G ", path));
  }
  if (bytes % kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("disk image ", path, " has ", bytes,
                                                   " bytes, not a multiple of 512; round it up with: truncate -s %512 ",
                                                   path));
  }
  image.sectors = bytes / kSectorBytes;
  // With O_NONBLOCK left on, io_uring would answer EAGAIN in place of waiting for the disk.
  if (fcntl(image.fd.get(), F_SETFL, 0) != 0) {
    return ErrnoStatus(absl::StrCat("disk image ", path));
  }
  return image;
}

absl::StatusOr<OpenImage> Open(const PinnedFile& file, bool read_only) {
  const std::string& path = file.path();
  // To open a device node, or a FIFO, may do something.
  struct stat info = {};
  if (fstat(file.fd(), &info) != 0) {
    return ErrnoStatus(absl::StrCat("disk image ", path));
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return NoImage(path, info);
  }
  Fd fd = file.Open(read_only ? O_RDONLY : O_RDWR);
  if (!fd.valid()) {
    return CannotOpen(errno, path, read_only);
  }
  return Take(std::move(fd), path);
}

// Whether `fd` is an open of `file`, for writing where that is wanted.
absl::Status CheckOpenOf(const PinnedFile& file, const Fd& fd, bool read_only) {
  struct stat pinned = {};
  struct stat opened = {};
  const int flags = fcntl(fd.get(), F_GETFL);
  if (fstat(file.fd(), &pinned) != 0 || fstat(fd.get(), &opened) != 0 || flags < 0) {
    return ErrnoStatus(absl::StrCat("disk image ", file.path()));
  }
  if (pinned.st_dev != opened.st_dev || pinned.st_ino != opened.st_ino) {
    return absl::InvalidArgumentError(absl::StrCat("disk image ", file.path(), " is not the file that was opened"));
  }
  if ((flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_WRONLY || (!read_only && (flags & O_ACCMODE) != O_RDWR)) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk image ", file.path(), " was not opened for reading", read_only ? "" : " and writing"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskImage>> DiskImage::Create(std::string path, bool read_only) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<DiskImage> disk, CreateReleased(std::move(path), read_only));
  FERRITE_RETURN_IF_ERROR(disk->Acquire());
  return disk;
}

absl::StatusOr<std::unique_ptr<DiskImage>> DiskImage::CreateReleased(std::string path, bool read_only) {
  auto file = PinnedFile::Find(std::move(path), PinnedFile::Links::kAll);
  if (!file.ok()) {
    return absl::Status(file.status().code(), absl::StrCat("disk image ", file.status().message()));
  }
  FERRITE_ASSIGN_OR_RETURN(const Look look, LookAt(*file, read_only));
  return CreateReleased(std::make_shared<PinnedFile>(*std::move(file)), read_only, look.sectors);
}

std::unique_ptr<DiskImage> DiskImage::CreateReleased(std::shared_ptr<const PinnedFile> file, bool read_only,
                                                     uint64_t sectors) {
  return std::unique_ptr<DiskImage>(new DiskImage(std::move(file), read_only, sectors));
}

absl::StatusOr<std::unique_ptr<DiskImage>> DiskImage::CreateHeld(std::shared_ptr<const PinnedFile> file, Fd locked,
                                                                 bool read_only) {
  FERRITE_RETURN_IF_ERROR(CheckOpenOf(*file, locked, read_only));
  FERRITE_ASSIGN_OR_RETURN(OpenImage image, Take(std::move(locked), file->path()));
  // What this open has locked already it may lock again.
  FERRITE_RETURN_IF_ERROR(LockImage(image.fd.get(), file->path(), !read_only));
  std::unique_ptr<DiskImage> disk = CreateReleased(std::move(file), read_only, image.sectors);
  disk->fd_ = std::move(image.fd);
  return disk;
}

absl::StatusOr<DiskImage::Look> DiskImage::LookAt(const PinnedFile& file, bool read_only) {
  FERRITE_ASSIGN_OR_RETURN(const OpenImage image, Open(file, /*read_only=*/true));
  if (!read_only && file.Access(R_OK | W_OK) != 0) {
    return CannotOpen(errno, file.path(), read_only);
  }
  return Look{.sectors = image.sectors, .in_use = ImageIsLocked(image.fd.get(), /*for_writing=*/!read_only)};
}

absl::Status DiskImage::Release() {
  if (!held()) {
    return absl::OkStatus();
  }
  if (!read_only_ && fdatasync(fd_.get()) != 0) {
    return ErrnoStatus(absl::StrCat("disk image ", path(), " cannot be written out"));
  }
  // Not left to close(): a child that was forked and has not called exec yet still shares this open.
  UnlockImage(fd_.get());
  fd_.Reset();
  return absl::OkStatus();
}

absl::Status DiskImage::Acquire() {
  if (held()) {
    return absl::OkStatus();
  }
  FERRITE_ASSIGN_OR_RETURN(OpenImage image, Open(*file_, read_only_));
  FERRITE_RETURN_IF_ERROR(LockImage(image.fd.get(), path(), !read_only_));
  // Once more under the lock: the holder before may have changed it.
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(image.fd, path()));
  if (bytes != sectors_ * kSectorBytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk image ", path(), " had ", sectors_ * kSectorBytes, " bytes and has ", bytes, " now"));
  }
  fd_ = std::move(image.fd);
  return absl::OkStatus();
}

}  // namespace ferrite
