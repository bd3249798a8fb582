// The kernel and the initrd of a machine that moves: a reset after the move boots them again, at the destination.
#ifndef FERRITE_VMM_MOVE_BOOT_FILES_H_
#define FERRITE_VMM_MOVE_BOOT_FILES_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/pinned_file.h"
#include "base/sha256.h"
#include "proto/machine.capnp.h"
#include "vmm/boot/boot_file.h"

namespace ferrite {

// What was in files that were read whole, as long as they are the same and were not changed: whoever asks about one
// again and again has it read once. The last few are known, of those that only root or this user may write to. Threads:
// End() any, the rest one.
class BootFileDigests {
 public:
  // The digest of the file, which has `bytes`. CANCELLED after End().
  absl::StatusOr<Sha256Digest> Of(const PinnedFile& file, uint64_t bytes);
  // Ends a reading that is on, and those to come.
  void End() { ended_ = true; }

  uint64_t files_read() const { return files_read_; }

 private:
  // Which file, and when it was changed last: device, inode, bytes, and both times with their nanoseconds.
  using Key = std::tuple<uint64_t, uint64_t, uint64_t, int64_t, int64_t, int64_t, int64_t>;
  struct Known {
    Key key;
    Sha256Digest digest;
  };
  static absl::StatusOr<Key> KeyOf(const PinnedFile& file);

  std::atomic<bool> ended_{false};
  std::deque<Known> known_;  // the newest is last
  uint64_t files_read_ = 0;
};

// Size and digest of what has to be in the file, else of what is in it now, or why there are none: also that it was
// `ended` meanwhile.
void DescribeBootFile(const BootFile& file, const std::atomic<bool>& ended, state::BootFile::Builder out);

// Whether the source says what is in its file at all, or why not. Errors name `what` ("kernel").
absl::Status CheckDescribed(absl::string_view what, state::BootFile::Reader described);

// Whether `file` is the described one, byte for byte: then that is what has to be in it from now on. A peer that can
// describe it knows what is in it, and learns nothing by having the guest read it. A file of another size, of more than
// `room` bytes (the machine's memory), or that is no regular one, is not opened. Errors name `what` and the path.
absl::StatusOr<std::shared_ptr<const BootFile>> CheckBootFile(absl::string_view what, PinnedFile file,
                                                              state::BootFile::Reader described, uint64_t room,
                                                              BootFileDigests& digests);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_BOOT_FILES_H_
