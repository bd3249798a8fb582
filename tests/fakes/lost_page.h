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

// Poisons pages of a region's guest mapping by UFFDIO_POISON. The marks stay when it is gone; until then whoever
// touches such a page after it was discarded waits.
class PageLoser {
 public:
  // UNIMPLEMENTED, with what is missing, where this host's kernel cannot do it (before 6.6).
  static absl::Status Supported();

  // The page at `offset`; its content is gone.
  absl::Status Lose(MemoryRegion& region, uint64_t offset);
  void Close() { fd_ = Fd(); }

 private:
  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_LOST_PAGE_H_
