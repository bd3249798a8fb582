// Who may open a disk image: one writer alone, or any number of readers.
#ifndef FERRITE_DEVICES_BLOCK_IMAGE_LOCK_H_
#define FERRITE_DEVICES_BLOCK_IMAGE_LOCK_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// Locks the open image `fd` (open for reading, and for writing with `for_writing`) until UnlockImage() or until the
// last descriptor of this open is closed, also by death of the process. Never waits.
//
// Open file description locks (fcntl(2), F_OFD_SETLK): they belong to the open, not to the process. A fork shares them,
// a second open of the same file in the same process conflicts, and closing that second open releases nothing.
//
// A writer holds the whole file exclusively. A reader holds byte 100 and bytes 201 to 203 shared: the bytes by which
// QEMU says "I read" and "nobody may write or resize", so that QEMU and its tools are kept out, and keep us out, too.
//
// Errors: FAILED_PRECONDITION when the image is in use, with the holder's process where /proc tells it.
absl::Status LockImage(int fd, absl::string_view path, bool for_writing);
void UnlockImage(int fd);

// Whether another open holds the image as LockImage() would now; what holds a lock of another kind, as any program may
// on any file, does not count. `fd` is open for reading.
bool ImageIsLocked(int fd, bool for_writing);

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_IMAGE_LOCK_H_
