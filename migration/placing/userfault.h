// userfaultfd(2): faults of a range of our own memory, read and resolved by us.
#ifndef FERRITE_MIGRATION_PLACING_USERFAULT_H_
#define FERRITE_MIGRATION_PLACING_USERFAULT_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
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

// Has one descriptor or several, over which ranges are divided by address: the kernel keeps who waits for pages in a
// list for each, under a lock of that, and goes through the list for each page that is placed (fs/userfaultfd.c).
//
// Threads: any, all methods but Divide().
class Userfault {
 public:
  // UFFD_FEATURE_… bits; of these, the one that Move() needs.
  static uint64_t WantedFeatures();
  static constexpr uint64_t kMoveFeature = uint64_t{1} << 16;
  static constexpr size_t kMostDescriptors = 16;
  // Has those of the `wanted` features that the kernel has, and up to `descriptors`, as many as there are. `opener` is
  // asked once for each, and again for the first one by a kernel that lacks one of the features; its error then is the
  // result.
  static absl::StatusOr<std::unique_ptr<Userfault>> Create(const UserfaultOpener& opener,
                                                           uint64_t wanted = WantedFeatures(), size_t descriptors = 1);

  const UserfaultFeatures& features() const { return features_; }
  size_t descriptors() const { return fds_.size(); }
  // Non-blocking; readable when a fault waits. To be polled.
  int fd(size_t descriptor = 0) const { return fds_[descriptor].get(); }

  // Equal shares of `range`, which are whole pages of `host_page` bytes, are the descriptors' from now on: before it is
  // registered. What was not divided is the first one's.
  void Divide(std::span<uint8_t> range, uint64_t host_page);
  // Faults in `range` come here from now on: missing pages and, with `minor`, pages that are only not mapped.
  absl::Status Register(std::span<uint8_t> range, bool minor);
  // Faults are the kernel's again, and whoever waits in the range is woken.
  absl::Status Unregister(std::span<uint8_t> range);

  // Takes faults that wait at a descriptor, up to the size of `out`; returns how many, 0 when there are none.
  absl::StatusOr<size_t> Read(std::span<Fault> out, size_t descriptor = 0);

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

  Userfault(std::vector<Fd> fds, UserfaultFeatures features) : fds_(std::move(fds)), features_(features) {}

  // The front of a range, up to where another descriptor begins.
  struct Piece {
    int fd;
    std::span<uint8_t> range;
  };
  Piece FrontOf(std::span<uint8_t> range) const;
  // The first error, after all were tried.
  absl::Status ForEachShare(absl::string_view what, std::span<uint8_t> range,
                            absl::FunctionRef<int(int fd, std::span<uint8_t> piece)> step) const;

  const std::vector<Fd> fds_;
  const UserfaultFeatures features_;
  struct Divided {
    std::span<uint8_t> range;
    size_t share;  // bytes; the last one has the rest, too
  };
  std::vector<Divided> divided_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_USERFAULT_H_
