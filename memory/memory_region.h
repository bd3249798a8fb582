// One contiguous piece of guest RAM and the host memory behind it.
#ifndef FERRITE_MEMORY_MEMORY_REGION_H_
#define FERRITE_MEMORY_MEMORY_REGION_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "memory/guest_address.h"
#include "memory/page_bitmap.h"

namespace ferrite {

// What holds the guest's RAM. The names are those of --memory-backing.
enum class MemoryBacking {
  kMemfd,      // "memfd": shared memory (memfd_create), 4 KiB pages
  kAnonymous,  // "anon": private anonymous memory, 4 KiB pages; transparent huge ones where wanted
  kHugetlb2M,  // "hugetlb-2M": memfd of 2 MiB huge pages, reserved when made; mapped twice
  kHugetlb1G,  // "hugetlb-1G": the same with 1 GiB
};
absl::StatusOr<MemoryBacking> ParseMemoryBacking(absl::string_view name);
absl::string_view MemoryBackingName(MemoryBacking backing);
// The size of the host's pages behind it.
uint64_t HostPageBytes(MemoryBacking backing);

// Threads: the accessors and MarkWritten() are safe from any thread; Discard() too, but what the guest reads in the
// range meanwhile is either old or zero. SetThp(), Lock(), Unlock() and DropAlias() are called by one thread at a time.
class MemoryRegion {
 public:
  // Memory of `bytes` (a multiple of the host page size) at `base`. Nothing is touched: pages come when used, except
  // that huge pages are reserved, so that a lack of them is an error here and not a SIGBUS later. Discard() gives the
  // reservation up.
  static absl::StatusOr<std::unique_ptr<MemoryRegion>> Create(std::string name, GuestAddress base, uint64_t bytes,
                                                              MemoryBacking backing);

  // Memory that somebody else made, for a monitor that moves its guest with this engine alone.
  struct Adopted {
    // Where its owner has it mapped, for KVM: it stays the owner's, who unmaps it when the region is gone.
    std::span<uint8_t> mapping;
    // The file behind it, of which the region has a descriptor of its own; -1: private anonymous memory. Nobody makes
    // it shorter as long as the region lives.
    int fd = -1;
    uint64_t offset = 0;      // of the mapping, in the file
    uint64_t page_bytes = 0;  // the host's pages: 4096, or hugetlbfs' 2 MiB or 1 GiB
  };
  // INVALID_ARGUMENT when `memory` is not as it says it is: of another page size, beyond the end of the file, or not on
  // the pages' boundaries.
  static absl::StatusOr<std::unique_ptr<MemoryRegion>> Adopt(std::string name, GuestAddress base,
                                                             const Adopted& memory);

  const std::string& name() const { return name_; }
  GuestAddress base() const { return base_; }
  uint64_t bytes() const { return guest_mapping_.size(); }
  uint64_t pages() const { return bytes() / kPageBytes; }
  GuestAddress end() const { return base_ + bytes(); }
  MemoryBacking backing() const { return backing_; }
  uint64_t host_page_bytes() const { return HostPageBytes(backing_); }
  // -1 for anonymous memory.
  int fd() const { return fd_.get(); }
  // Where it begins in the file.
  uint64_t file_offset() const { return offset_; }

  // Ends the second mapping: what was touched through it has page tables of its own, and counts as resident twice.
  // Nobody uses it any more. Content and guest mapping stay as they are.
  void DropAlias();

  // What KVM and the devices use.
  std::span<uint8_t> guest_mapping() const { return guest_mapping_.span(); }
  // The second mapping of the same memory; of hugetlb alone, and until DropAlias(). Writing through it
  // neither faults in nor changes page tables of the guest mapping.
  std::span<uint8_t> alias_mapping() const { return alias_mapping_.span(); }

  // Notes that the monitor itself wrote [offset, offset + bytes): KVM's dirty log sees only what vCPUs write. Cheap
  // and always on.
  void MarkWritten(uint64_t offset, uint64_t bytes);
  PageBitmap& own_writes() { return own_writes_; }

  // Gives the whole host pages inside [offset, offset + bytes) back to the host: they read as zero afterwards, and the
  // file has a hole there. Returns the number of bytes that were given back (0 when no whole host page lies inside).
  // Counts as written. Huge pages go back to the pool unreserved: when somebody else has taken them, the next access to
  // the range is a SIGBUS here and EFAULT from KVM_RUN. A lost page in it is one no more, and good when it is used
  // again.
  absl::StatusOr<uint64_t> Discard(uint64_t offset, uint64_t bytes);

  // Lost pages: host pages whose content the hardware lost, as far as somebody touched them (docs/broken_pages.md).
  // Adds the one that holds `offset`; returns whether it was not known yet.
  bool AddLost(uint64_t offset);
  // Asks the kernel whether it is lost, and adds it then: whether it was not known yet, or nothing. A hole is filled.
  std::optional<bool> AddIfLost(uint64_t offset);
  bool IsLost(uint64_t offset) const;
  // Their offsets, ascending.
  std::vector<uint64_t> LostPages() const;
  // Of the first one that holds `offset` or is behind it.
  std::optional<uint64_t> NextLost(uint64_t offset) const;
  // Adds the one that holds `offset`, and makes it so for who touches it, where the kernel has no UFFDIO_POISON: SIGBUS
  // here (BUS_ADRERR), EFAULT from system calls and KVM_RUN. What it held is gone. Discard() undoes it.
  // RESOURCE_EXHAUSTED for one of very many; it is not added then, nor after another error.
  absl::Status HideLost(uint64_t offset);
  // The offsets of those, ascending.
  std::vector<uint64_t> HiddenPages() const;

  // Bytes of host memory in use now, from the kernel (the blocks of a file that is this region's alone, mincore(2)
  // otherwise).
  absl::StatusOr<uint64_t> ResidentBytes() const;

  // Bytes of the guest mapping that are huge pages now, transparent or not. Of transparent ones /proc/self/smaps tells,
  // which counts all memory of the process: milliseconds, and for gigabytes of small pages some hundred.
  absl::StatusOr<uint64_t> HugeBytes() const;

  // madvise(2): MADV_HUGEPAGE or MADV_NOHUGEPAGE. No effect on hugetlb, and with a kernel that has none.
  absl::Status SetThp(bool on);
  // Whether they are asked for.
  bool thp() const { return thp_.load(std::memory_order_relaxed); }

  // mlock(2) of the guest mapping, but for lost pages. The error names the limit (RLIMIT_MEMLOCK) and how to raise it.
  absl::Status Lock();
  absl::Status Unlock();

 private:
  MemoryRegion(std::string name, GuestAddress base, MemoryBacking backing, Fd fd, uint64_t offset, Mapping guest,
               Mapping alias);
  // Makes good the lost pages of [first, first + length), which the file has no page for any more.
  absl::Status HealLost(uint64_t first, uint64_t length);
  // Of the lost page at `offset`, in both mappings.
  absl::Status ForgetLost(uint64_t offset, bool hidden);
  // Puts nothing in the place of the page in the guest mapping.
  absl::Status MapEmpty(uint64_t page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lost_mutex_);

  const std::string name_;
  const GuestAddress base_;
  const MemoryBacking backing_;
  Fd fd_;
  const uint64_t offset_;  // in the file
  Mapping guest_mapping_;
  Mapping alias_mapping_;
  PageBitmap own_writes_;
  std::atomic<bool> thp_ = false;
  // The size of the list, so that who has none pays for none.
  std::atomic<uint64_t> lost_count_ = 0;
  mutable absl::Mutex lost_mutex_;
  std::map<uint64_t, bool> lost_ ABSL_GUARDED_BY(lost_mutex_);  // by offset: whether it is hidden
  uint64_t hidden_count_ ABSL_GUARDED_BY(lost_mutex_) = 0;
  Fd empty_ ABSL_GUARDED_BY(lost_mutex_);  // that hides them; made for the first
};

}  // namespace ferrite

#endif  // FERRITE_MEMORY_MEMORY_REGION_H_
