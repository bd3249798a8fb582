#include "vmm/mirror/image_target.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/byte_size.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/pinned_file.h"
#include "base/status.h"
#include "devices/block/image_lock.h"
#include "vmm/mirror/file_blocks.h"
#include "vmm/mirror/flush_record.h"
#include "vmm/mirror/incomplete_mark.h"
#include "vmm/mirror/same_disk.h"

namespace ferrite {
namespace {

using migration::BlockIo;

// Where a path leads: its directory, open for reading, and the name there.
struct Place {
  Fd directory;
  std::string name;
};

// `directory`, if it was found before.
absl::StatusOr<Place> FindPlace(const std::string& path, Fd directory = Fd()) {
  if (!directory.valid()) {
    FERRITE_ASSIGN_OR_RETURN(directory, FindDirectoryOf(path));
  }
  return Place{.directory = std::move(directory), .name = path.substr(path.rfind('/') + 1)};
}

// Where the file itself is: its name may be a link's, and a mark beside that would not be beside the file.
absl::StatusOr<Place> FindPlaceOf(const PinnedFile& file) {
  std::error_code error;
  const std::string path = std::filesystem::read_symlink(DescriptorPath(file.fd()), error);
  if (error) {
    return ErrnoStatus(error.value(), absl::StrCat("look for the directory of ", file.path()));
  }
  return FindPlace(path);
}

class OpenedImage final : public ImageTarget {
 public:
  OpenedImage(const Wanted& wanted, ImagePlace place)
      : wanted_(wanted), found_directory_(std::move(place.directory)), file_(std::move(place.file)) {}

  absl::Status Make(EventLoop& loop);
  absl::Status Take(EventLoop& loop);

  const std::string& where() const override { return wanted_.where; }
  std::string Describe() const override {
    return absl::StrCat(is_device_ ? "block device" : "file", made_ ? ", made here" : "", ", ",
                        RoundedByteSize(blocks_->bytes()));
  }
  BlockIo& blocks() override { return *blocks_; }
  bool is_zero() const override { return is_zero_; }
  absl::Status WriteOut() override;
  absl::Status MarkComplete() override;
  absl::StatusOr<std::unique_ptr<DiskImage>> TakeImage() override;
  absl::Status CheckCanBeDisk() const override;
  int fd() const override { return fd_.get(); }
  std::shared_ptr<const PinnedFile> file() const override { return file_; }
  void Unlock() override { UnlockImage(fd_.get()); }
  absl::Status RemoveUntouched() override;
  absl::Status Unmark() override { return mark_.has_value() ? mark_->Unlink() : absl::OkStatus(); }
  bool made_here() const override { return made_; }
  absl::Status Remove() override;

 private:
  // Refused: what cannot be written over.
  absl::Status CheckFound(const struct stat& info) const;
  absl::Status OpenFound(const struct stat& info);
  absl::StatusOr<uint64_t> SizeFound() const;
  absl::Status MakeBlocks(uint64_t bytes, EventLoop& loop);
  absl::Status FlushAll() const;

  const Wanted wanted_;
  Fd found_directory_;
  Place place_;
  bool made_ = false;  // the file, here
  bool is_device_ = false;
  bool is_zero_ = false;
  bool was_empty_ = false;  // a file that was there: it has no bytes
  bool taken_ = false;
  std::shared_ptr<const PinnedFile> file_;
  Fd fd_;  // holds the lock, as its duplicates do
  const std::shared_ptr<FlushRecord> flushes_ = std::make_shared<FlushRecord>();
  std::optional<IncompleteMark> mark_;
  std::unique_ptr<BlockIo> blocks_;
};

absl::Status OpenedImage::Make(EventLoop& loop) {
  const std::string& path = wanted_.where;
  FERRITE_ASSIGN_OR_RETURN(place_, FindPlace(path, std::move(found_directory_)));
  if (struct stat info = {}; fstatat(place_.directory.get(), place_.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(path, " is there already; `existing` writes over it"));
  }
  FERRITE_ASSIGN_OR_RETURN(mark_, IncompleteMark::Put(place_.directory, place_.name, IncompleteMark::Found::kRefused));
  auto leave_nothing = absl::MakeCleanup([this] { (void)Remove(); });
  fd_ = Fd(openat(place_.directory.get(), place_.name.c_str(),
                  O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600));
  if (!fd_.valid()) {
    return ErrnoStatus(absl::StrCat("make ", path));
  }
  made_ = true;
  is_zero_ = true;
  FERRITE_RETURN_IF_ERROR(LockImage(fd_.get(), path, /*for_writing=*/true));
  if (ftruncate(fd_.get(), static_cast<off_t>(wanted_.bytes)) != 0) {
    return ErrnoStatus(absl::StrCat("make ", path, " of ", wanted_.bytes, " bytes"));
  }
  FERRITE_ASSIGN_OR_RETURN(PinnedFile pinned, PinnedFile::FindBelow(place_.directory.get(), place_.name, path));
  if (!IsNamed(place_.directory.get(), place_.name, fd_)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " was replaced while it was made"));
  }
  file_ = std::make_shared<const PinnedFile>(std::move(pinned));
  FERRITE_RETURN_IF_ERROR(MakeBlocks(wanted_.bytes, loop));
  std::move(leave_nothing).Cancel();
  return absl::OkStatus();
}

absl::Status OpenedImage::CheckFound(const struct stat& info) const {
  const std::string& path = wanted_.where;
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is ", S_ISDIR(info.st_mode) ? "a directory" : "a special file", ", neither a file nor a block device"));
  }
  if (wanted_.source_fd >= 0 && MayBeSameDisk(file_->fd(), wanted_.source_fd)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is the disk itself, or shares its blocks"));
  }
  return absl::OkStatus();
}

absl::Status OpenedImage::OpenFound(const struct stat& info) {
  const std::string& path = wanted_.where;
  fd_ = file_->Open(O_RDWR | (S_ISBLK(info.st_mode) ? O_EXCL : 0));
  if (!fd_.valid()) {
    const int error = errno;
    if (error == EBUSY) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is in use: it is mounted, or a part of another block device"));
    }
    return ErrnoStatus(
        error,
        absl::StrCat(path, error == EROFS || error == EACCES || error == EPERM ? " cannot be opened for writing" : ""));
  }
  if (int read_only = 0; S_ISBLK(info.st_mode) && ioctl(fd_.get(), BLKROGET, &read_only) == 0 && read_only != 0) {
    return absl::PermissionDeniedError(absl::StrCat("the block device ", path, " is read-only"));
  }
  return LockImage(fd_.get(), path, /*for_writing=*/true);
}

absl::StatusOr<uint64_t> OpenedImage::SizeFound() const {
  struct stat info = {};
  uint64_t bytes = 0;
  if (fstat(fd_.get(), &info) != 0 || (is_device_ && ioctl(fd_.get(), BLKGETSIZE64, &bytes) != 0)) {
    return ErrnoStatus(absl::StrCat("size of ", wanted_.where));
  }
  if (!is_device_) {
    bytes = static_cast<uint64_t>(info.st_size);
    if (bytes == 0) {
      return 0;
    }
  }
  if (bytes < wanted_.bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(wanted_.where, " has ", bytes, " bytes, and the disk has ", wanted_.bytes));
  }
  if (!is_device_ && bytes != wanted_.bytes) {
    return absl::FailedPreconditionError(absl::StrCat(wanted_.where, " has ", bytes, " bytes, and the disk has ",
                                                      wanted_.bytes,
                                                      "; a file that is written over is empty, or of the disk's size"));
  }
  if (wanted_.exact && bytes > wanted_.bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(wanted_.where, " has ", bytes, " bytes, the disk has ", wanted_.bytes, ", and does not grow"));
  }
  return bytes;
}

absl::Status OpenedImage::Take(EventLoop& loop) {
  const std::string& path = wanted_.where;
  if (file_ == nullptr) {
    FERRITE_ASSIGN_OR_RETURN(PinnedFile pinned, PinnedFile::Find(path, PinnedFile::Links::kOwn));
    file_ = std::make_shared<const PinnedFile>(std::move(pinned));
  }
  struct stat info = {};
  if (fstat(file_->fd(), &info) != 0) {
    return ErrnoStatus(path);
  }
  is_device_ = S_ISBLK(info.st_mode);
  FERRITE_RETURN_IF_ERROR(CheckFound(info));
  FERRITE_RETURN_IF_ERROR(OpenFound(info));
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, SizeFound());
  // What is refused of the blocks is refused before anything changes.
  FERRITE_RETURN_IF_ERROR(MakeBlocks(bytes == 0 ? wanted_.bytes : bytes, loop));
  is_zero_ = !is_device_ && (bytes == 0 || (lseek(fd_.get(), 0, SEEK_DATA) < 0 && errno == ENXIO));
  if (is_device_) {
    return absl::OkStatus();
  }
  FERRITE_ASSIGN_OR_RETURN(place_, FindPlaceOf(*file_));
  if (!IsNamed(place_.directory.get(), place_.name, fd_)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " was moved or removed while it was opened"));
  }
  FERRITE_ASSIGN_OR_RETURN(mark_,
                           IncompleteMark::Put(place_.directory, place_.name, IncompleteMark::Found::kTakenOver));
  was_empty_ = bytes == 0;
  if (was_empty_ && ftruncate(fd_.get(), static_cast<off_t>(wanted_.bytes)) != 0) {
    const absl::Status status = ErrnoStatus(absl::StrCat("make ", path, " of ", wanted_.bytes, " bytes"));
    if (!mark_->taken_over()) {
      (void)mark_->Remove();
    }
    return status;
  }
  return absl::OkStatus();
}

absl::Status OpenedImage::MakeBlocks(uint64_t bytes, EventLoop& loop) {
  FERRITE_ASSIGN_OR_RETURN(Fd own, fd_.Duplicate());
  FERRITE_ASSIGN_OR_RETURN(
      blocks_, MakeFileBlocks(wanted_.where, std::move(own), bytes, loop, wanted_.depth, flushes_, OpenDirect(fd_)));
  if (wanted_.bytes % blocks_->block_bytes() != 0) {
    return absl::FailedPreconditionError(absl::StrCat("the disk has ", wanted_.bytes,
                                                      " bytes, not a multiple of the block size of ", wanted_.where,
                                                      ", ", blocks_->block_bytes()));
  }
  return absl::OkStatus();
}

absl::Status OpenedImage::WriteOut() {
  return flushes_->Note(fdatasync(fd_.get()) == 0 ? absl::OkStatus()
                                                  : ErrnoStatus(absl::StrCat("write out ", wanted_.where)));
}

absl::Status OpenedImage::FlushAll() const {
  return fsync(fd_.get()) == 0 && (is_device_ || fsync(place_.directory.get()) == 0)
             ? absl::OkStatus()
             : ErrnoStatus(absl::StrCat("write out ", wanted_.where));
}

absl::Status OpenedImage::MarkComplete() {
  FERRITE_RETURN_IF_ERROR(flushes_->Note(FlushAll()));
  return mark_.has_value() ? mark_->Remove() : absl::OkStatus();
}

absl::Status OpenedImage::CheckCanBeDisk() const {
  if (blocks_->bytes() != wanted_.bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(wanted_.where, " has ", blocks_->bytes(), " bytes, and a machine's disk of ", wanted_.bytes,
                     " does not grow; `--cancel --keep-copy` leaves a whole copy there"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DiskImage>> OpenedImage::TakeImage() {
  FERRITE_RETURN_IF_ERROR(CheckCanBeDisk());
  if (taken_) {
    return absl::FailedPreconditionError(absl::StrCat("the image ", wanted_.where, " was taken already"));
  }
  FERRITE_ASSIGN_OR_RETURN(Fd own, fd_.Duplicate());
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<DiskImage> image,
                           DiskImage::CreateHeld(file_, std::move(own), /*read_only=*/false));
  taken_ = true;
  return image;
}

absl::Status OpenedImage::RemoveUntouched() {
  if (was_empty_ && ftruncate(fd_.get(), 0) != 0) {
    return ErrnoStatus(absl::StrCat("make ", wanted_.where, " empty again"));
  }
  return made_ || !mark_.has_value() || mark_->taken_over() ? Remove() : mark_->Remove();
}

absl::Status OpenedImage::Remove() {
  if (taken_) {
    return absl::FailedPreconditionError(absl::StrCat("the image ", wanted_.where, " is a machine's"));
  }
  if (made_ && IsNamed(place_.directory.get(), place_.name, fd_) &&
      unlinkat(place_.directory.get(), place_.name.c_str(), 0) != 0) {
    return ErrnoStatus(absl::StrCat("remove ", wanted_.where));
  }
  // Of what was there before it stays.
  return mark_.has_value() && !wanted_.existing ? mark_->Remove() : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageTarget>> OpenImageTarget(const MirrorTarget::Wanted& wanted, EventLoop& loop,
                                                             ImagePlace place) {
  auto target = std::make_unique<OpenedImage>(wanted, std::move(place));
  FERRITE_RETURN_IF_ERROR(wanted.existing ? target->Take(loop) : target->Make(loop));
  return target;
}

}  // namespace ferrite
