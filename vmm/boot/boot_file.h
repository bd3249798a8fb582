// The kernel or the initrd of a machine, found once.
#ifndef FERRITE_VMM_BOOT_BOOT_FILE_H_
#define FERRITE_VMM_BOOT_BOOT_FILE_H_

#include <cstdint>
#include <optional>

#include "base/pinned_file.h"
#include "base/sha256.h"

namespace ferrite {

// What the first start and every reset load is this file, whatever is put in the place of its name.
struct BootFile {
  struct Content {
    uint64_t bytes = 0;
    Sha256Digest sha256 = {};
  };

  PinnedFile file;
  // What has to be in it, or it is not loaded. Empty: whatever is, as its owner may change it.
  std::optional<Content> content;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_BOOT_FILE_H_
