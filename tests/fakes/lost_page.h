// For tests: pages of guest memory that the hardware "lost".
#ifndef FERRITE_TESTS_FAKES_LOST_PAGE_H_
#define FERRITE_TESTS_FAKES_LOST_PAGE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/fd.h"
#include "memory/memory_region.h"

namespace ferrite {

// Sends this thread what the kernel sends of a page that was lost before anybody touched it (BUS_MCEERR_AO).
void TellOfLostPage(const void* address);

// Poisons pages of a region: by UFFDIO_POISON in its guest mapping, or with FERRITE_TEST_POISON=real for good, by
// MADV_HWPOISON, for which it takes root and CONFIG_MEMORY_FAILURE (docs/testing.md). The marks stay when it is gone;
// until then whoever touches a page that UFFDIO_POISON marked waits, when it was discarded.
class PageLoser {
 public:
  // Whether FERRITE_TEST_POISON asks for it. Who asks and cannot have it fails.
  static bool Real();
  // UNIMPLEMENTED, with what is missing, where this host's kernel has no UFFDIO_POISON (before 6.6). OK when it is to
  // be real.
  static absl::Status Supported();

  // The host page at `offset`; its content is gone. UNAVAILABLE where the kernel wants it to be tried again.
  absl::Status Lose(MemoryRegion& region, uint64_t offset);
  // The same, and the kernel says so, to the thread that listens (ListenForLostPages()), before anybody has touched it.
  absl::Status LoseTold(MemoryRegion& region, uint64_t offset);
  void Close() { fd_ = Fd(); }

 private:
  absl::Status Mark(MemoryRegion& region, uint8_t* page);

  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_LOST_PAGE_H_
