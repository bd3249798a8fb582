// userfaultfd(2): faults of a range of our own memory, read and resolved by us.
#ifndef FERRITE_MIGRATION_PLACING_USERFAULT_H_
#define FERRITE_MIGRATION_PLACING_USERFAULT_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/open_userfault.h"

namespace ferrite::migration {

// What the kernel's userfaultfd can do.
struct UserfaultFeatures {
  bool missing_shmem = false;
  bool missing_hugetlb = false;
  bool minor_shmem = false;
  bool minor_hugetlb = false;
  bool poison = false;
  bool move = false;
  bool thread_id = false;
};

struct Fault {
  uint64_t address = 0;  // in our address space, rounded down to a 4 KiB page
  pid_t thread = 0;      // 0 where the kernel does not tell
  bool minor = false;    // the page is in the page cache, only not mapped
};

// Threads: any, all methods.
class Userfault {
 public:
  // UFFD_FEATURE_… bits; of these, the one that Move() needs.
  static uint64_t WantedFeatures();
  static constexpr uint64_t kMoveFeature = uint64_t{1} << 16;
  // Has those of the `wanted` features that the kernel has. `opener` is asked once, and again only by a kernel that
  // lacks one of them; its error is the result.
  static absl::StatusOr<std::unique_ptr<Userfault>> Create(const UserfaultOpener& opener,
                                                           uint64_t wanted = WantedFeatures());

  const UserfaultFeatures& features() const { return features_; }
  // Non-blocking; readable when a fault waits. To be polled.
  int fd() const { return fd_.get(); }

  // Faults in `range` come here from now on: missing pages and, with `minor`, pages that are only not mapped.
  absl::Status Register(std::span<uint8_t> range, bool minor);
  // Faults are the kernel's again, and whoever waits in the range is woken.
  absl::Status Unregister(std::span<uint8_t> range);

  // Takes faults that wait, up to the size of `out`; returns how many, 0 when there are none.
  absl::StatusOr<size_t> Read(std::span<Fault> out);

  // Each makes the pages of `range` visible to the guest at once and wakes who waits for them. A page that is there
  // already is left alone and its waiters are woken. `range` is whole host pages of `host_page` bytes; `placed` of
  // them, from the front, are there also after an error.
  //
  // What the page cache holds.
  absl::Status Continue(std::span<uint8_t> range, uint64_t host_page, uint64_t& placed);
  // The pages at `source`, which leave there: whole huge pages change hands at once (Linux 6.8). How many bytes at the
  // front of `range` are there, from 0 on: what is in the way (a page that is there or was never at `source`, one that
  // is pinned, a lack of memory) says whoever copies the rest.
  uint64_t Move(std::span<uint8_t> range, uint8_t* source);
  // A copy of `source`.
  absl::Status Copy(std::span<uint8_t> range, const uint8_t* source, uint64_t host_page, uint64_t& placed);
  // The same, but ALREADY_EXISTS at a page that is there, or that only the file has: it is left as it is, nobody woken.
  absl::Status CopyNew(std::span<uint8_t> range, const uint8_t* source, uint64_t host_page, uint64_t& placed);
  absl::Status ZeroPage(std::span<uint8_t> range, uint64_t host_page);
  // An access raises SIGBUS with BUS_MCEERR_AR (R9).
  absl::Status Poison(std::span<uint8_t> range, uint64_t host_page);
  // Only wakes: the fault is taken again.
  absl::Status Wake(std::span<uint8_t> range);

 private:
  // UFFDIO_COPY, in the terms of PlaceAll(): bytes placed, or a negative errno.
  int64_t CopyOnce(std::span<uint8_t> range, const uint8_t* source);

  Userfault(Fd fd, UserfaultFeatures features) : fd_(std::move(fd)), features_(features) {}

  const Fd fd_;
  const UserfaultFeatures features_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_USERFAULT_H_
