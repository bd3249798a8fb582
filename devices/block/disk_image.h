// A raw disk image: a regular file or a block device, opened and locked.
#ifndef FERRITE_DEVICES_BLOCK_DISK_IMAGE_H_
#define FERRITE_DEVICES_BLOCK_DISK_IMAGE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/pinned_file.h"

namespace ferrite {

inline constexpr uint64_t kSectorBytes = 512;

// Either held (open, locked as image_lock.h says, fd() valid) or released (closed; another monitor may hold it). It is
// the file that its path stood for when it was looked up first, also when it is acquired again: what somebody puts in
// its place meanwhile is another disk.
//
// Threads: one at a time.
class DiskImage {
 public:
  // Opens and locks the image at `path`. Refused, each with one line that names the path: what is missing, not
  // permitted, neither a regular file nor a block device, empty, of a size that is no multiple of 512 bytes, or in use.
  static absl::StatusOr<std::unique_ptr<DiskImage>> Create(std::string path, bool read_only);

  // The same without the lock, and released: for a monitor that will take the disk over from the one that holds it now.
  static absl::StatusOr<std::unique_ptr<DiskImage>> CreateReleased(std::string path, bool read_only);
  // And without a look at it: one of LookAt() gave its size.
  static std::unique_ptr<DiskImage> CreateReleased(std::shared_ptr<const PinnedFile> file, bool read_only,
                                                   uint64_t sectors);

  // And for who has it open and locked already, as LockImage() does: held, with the descriptor `locked` of `file`, for
  // writing too unless `read_only`. Refused as by Create(), and when `locked` is of another file or not open for that;
  // it is closed then.
  static absl::StatusOr<std::unique_ptr<DiskImage>> CreateHeld(std::shared_ptr<const PinnedFile> file, Fd locked,
                                                               bool read_only);

  struct Look {
    uint64_t sectors = 0;
    bool in_use = false;  // held by somebody else, as this one would hold it
  };
  // Refused as by Create(), but for what is in use. The image is opened for reading only, and what is neither a regular
  // file nor a block device is not opened.
  static absl::StatusOr<Look> LookAt(const PinnedFile& file, bool read_only);

  const std::string& path() const { return file_->path(); }
  // Where another monitor finds it, PinnedFile::PathNow().
  std::string PathNow() const { return file_->PathNow(); }
  bool read_only() const { return read_only_; }
  // In 512-byte sectors, at least 1. Fixed for the life of the object.
  uint64_t sectors() const { return sectors_; }
  bool held() const { return fd_.valid(); }
  // -1 while released.
  int fd() const { return fd_.get(); }

  // held → released: all that was written is on the disk, then the lock is given up. On an error (the disk did not take
  // what was written) it stays held. Released already is OK.
  absl::Status Release();
  // released → held: opens the same file and locks it again; refused as by Create(), and when the size is another one
  // now. Held already is OK.
  absl::Status Acquire();

 private:
  DiskImage(std::shared_ptr<const PinnedFile> file, bool read_only, uint64_t sectors)
      : file_(std::move(file)), read_only_(read_only), sectors_(sectors) {}

  const std::shared_ptr<const PinnedFile> file_;
  const bool read_only_;
  const uint64_t sectors_;
  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_DISK_IMAGE_H_
