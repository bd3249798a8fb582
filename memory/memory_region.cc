#include "memory/memory_region.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "memory/memory_limits.h"

namespace ferrite {
namespace {

constexpr uint64_t kHuge2M = uint64_t{2} << 20;
constexpr uint64_t kHuge1G = uint64_t{1} << 30;

struct BackingInfo {
  MemoryBacking backing;
  absl::string_view name;
  uint64_t host_page_bytes;
  unsigned int memfd_flags;
};

constexpr BackingInfo kBackings[] = {
    {MemoryBacking::kMemfd, "memfd", kPageBytes, 0},
    {MemoryBacking::kAnonymous, "anon", kPageBytes, 0},
    {MemoryBacking::kHugetlb2M, "hugetlb-2M", kHuge2M, MFD_HUGETLB | MFD_HUGE_2MB},
    {MemoryBacking::kHugetlb1G, "hugetlb-1G", kHuge1G, MFD_HUGETLB | MFD_HUGE_1GB},
};

const BackingInfo& InfoOf(MemoryBacking backing) {
  for (const BackingInfo& info : kBackings) {
    if (info.backing == backing) {
      return info;
    }
  }
  FERRITE_CHECK(false && "unknown memory backing");
}

bool IsHugetlb(MemoryBacking backing) { return InfoOf(backing).memfd_flags != 0; }

std::string HugePageDirectory(uint64_t page_bytes) {
  return absl::StrCat("/sys/kernel/mm/hugepages/hugepages-", page_bytes / 1024, "kB");
}

// Pages of the pool that are free and not promised to somebody else.
uint64_t FreeHugePages(uint64_t page_bytes) {
  uint64_t free = 0;
  uint64_t reserved = 0;
  std::ifstream(HugePageDirectory(page_bytes) + "/free_hugepages") >> free;
  std::ifstream(HugePageDirectory(page_bytes) + "/resv_hugepages") >> reserved;
  return free - std::min(free, reserved);
}

absl::Status NotEnoughHugePages(absl::string_view what, uint64_t bytes, const BackingInfo& info) {
  const uint64_t page_bytes = info.host_page_bytes;
  const absl::Status by_group = CheckHugePageGroups(bytes, info.backing);
  return !by_group.ok() ? by_group
                        : absl::ResourceExhaustedError(
                              absl::StrCat("memory backing ", info.name, ": ", what, " needs ", bytes / page_bytes,
                                           " huge pages of ", page_bytes >> 20, " MiB, ", FreeHugePages(page_bytes),
                                           " are free; reserve more by writing their total number to ",
                                           HugePageDirectory(page_bytes), "/nr_hugepages"));
}

absl::StatusOr<Fd> CreateMemfd(const std::string& what, uint64_t bytes, const BackingInfo& info) {
  Fd fd(memfd_create(what.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | info.memfd_flags));
  if (!fd.valid()) {
    if (errno == ENODEV) {
      return absl::FailedPreconditionError(absl::StrCat("memory backing ", info.name,
                                                        ": this host has no huge pages of ", info.host_page_bytes >> 20,
                                                        " MiB; choose another memory backing"));
    }
    return ErrnoStatus(absl::StrCat("create ", info.name, " memory for ", what));
  }
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(absl::StrCat("set the size of ", what, " to ", bytes, " bytes"));
  }
  // Nobody who is given the fd can cut the file short and make an access here a SIGBUS.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(absl::StrCat("seal the size of ", what));
  }
  return fd;
}

absl::StatusOr<Mapping> MapRam(const std::string& what, uint64_t bytes, int flags, int fd, uint64_t offset,
                               const BackingInfo& info) {
  // Aligned for huge pages, transparent ones too.
  FERRITE_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Create(what, bytes, flags, fd, static_cast<off_t>(offset),
                                                            std::max<size_t>(info.host_page_bytes, kHuge2M)));
  // A core dump of the monitor is to show the monitor, neither gigabytes of guest nor the guest's secrets.
  if (madvise(mapping.data(), bytes, MADV_DONTDUMP) != 0) {
    return ErrnoStatus(absl::StrCat("keep ", what, " out of core dumps"));
  }
  return mapping;
}

// Whether a region of pages of `info` can be there.
absl::Status CheckPlace(absl::string_view name, GuestAddress base, uint64_t bytes, const BackingInfo& info) {
  if (bytes == 0 || bytes % info.host_page_bytes != 0 || base.value() % info.host_page_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("memory ", name, ": size ", bytes, " and address 0x",
                                                   absl::Hex(base.value()), " must be multiples of ",
                                                   info.host_page_bytes, " bytes for ", info.name, ", and not empty"));
  }
  if (bytes > uint64_t{1} << 62 || base.value() + bytes < base.value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory ", name, ": ", bytes, " bytes at 0x", absl::Hex(base.value()), " are too many"));
  }
  return absl::OkStatus();
}

// What `memory` is, when it is what it says it is.
absl::StatusOr<MemoryBacking> BackingOf(absl::string_view name, const MemoryRegion::Adopted& memory) {
  if (memory.fd < 0) {
    if (memory.page_bytes != kPageBytes || memory.offset != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("memory ", name, ": without a file it has pages of ", kPageBytes, " bytes, and no offset"));
    }
    return MemoryBacking::kAnonymous;
  }
  struct stat file = {};
  struct statfs system = {};
  if (fstat(memory.fd, &file) != 0 || fstatfs(memory.fd, &system) != 0) {
    return ErrnoStatus(absl::StrCat("memory ", name, ": look at the descriptor ", memory.fd));
  }
  // The page size of hugetlbfs is its block size.
  const auto page_bytes = system.f_type == HUGETLBFS_MAGIC ? static_cast<uint64_t>(system.f_bsize) : kPageBytes;
  if (memory.page_bytes != page_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("memory ", name, ": pages of ", memory.page_bytes,
                                                   " bytes, but its file has such of ", page_bytes));
  }
  const auto size = static_cast<uint64_t>(file.st_size);
  if (memory.offset > size || memory.mapping.size() > size - memory.offset) {
    return absl::InvalidArgumentError(absl::StrCat("memory ", name, ": ", memory.mapping.size(), " bytes from offset ",
                                                   memory.offset, " on are more than its file of ", size, " has"));
  }
  for (const BackingInfo& info : kBackings) {
    if (info.backing != MemoryBacking::kAnonymous && info.host_page_bytes == page_bytes) {
      return info.backing;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("memory ", name, ": pages of ", page_bytes, " bytes are not known"));
}

std::string MemlockLimitText() {
  struct rlimit limit = {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) {
    return "unknown";
  }
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : absl::StrCat(limit.rlim_cur, " bytes");
}

}  // namespace

absl::StatusOr<MemoryBacking> ParseMemoryBacking(absl::string_view name) {
  std::string known;
  for (const BackingInfo& info : kBackings) {
    if (info.name == name) {
      return info.backing;
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", info.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("memory backing '", name, "' is unknown; there are ", known));
}

absl::string_view MemoryBackingName(MemoryBacking backing) { return InfoOf(backing).name; }

uint64_t HostPageBytes(MemoryBacking backing) { return InfoOf(backing).host_page_bytes; }

absl::StatusOr<std::unique_ptr<MemoryRegion>> MemoryRegion::Create(std::string name, GuestAddress base, uint64_t bytes,
                                                                   MemoryBacking backing) {
  const BackingInfo& info = InfoOf(backing);
  FERRITE_RETURN_IF_ERROR(CheckPlace(name, base, bytes, info));
  const std::string what = absl::StrCat("ferrite-", name);
  if (backing == MemoryBacking::kAnonymous) {
    FERRITE_ASSIGN_OR_RETURN(Mapping guest, MapRam(what, bytes, MAP_PRIVATE | MAP_NORESERVE, -1, 0, info));
    return std::unique_ptr<MemoryRegion>(
        new MemoryRegion(std::move(name), base, backing, Fd(), 0, std::move(guest), Mapping()));
  }
  FERRITE_ASSIGN_OR_RETURN(Fd fd, CreateMemfd(what, bytes, info));
  if (!IsHugetlb(backing)) {
    FERRITE_ASSIGN_OR_RETURN(Mapping guest, MapRam(what, bytes, MAP_SHARED | MAP_NORESERVE, fd.get(), 0, info));
    return std::unique_ptr<MemoryRegion>(
        new MemoryRegion(std::move(name), base, backing, std::move(fd), 0, std::move(guest), Mapping()));
  }
  // Without MAP_NORESERVE the kernel promises the huge pages of the whole file to it here, or fails. The second mapping
  // of the file needs no second promise.
  constexpr int flags = MAP_SHARED;
  absl::StatusOr<Mapping> guest = MapRam(what, bytes, flags, fd.get(), 0, info);
  if (!guest.ok()) {
    return absl::IsResourceExhausted(guest.status()) ? NotEnoughHugePages(what, bytes, info) : guest.status();
  }
  FERRITE_ASSIGN_OR_RETURN(Mapping alias, MapRam(what, bytes, flags, fd.get(), 0, info));
  return std::unique_ptr<MemoryRegion>(
      new MemoryRegion(std::move(name), base, backing, std::move(fd), 0, *std::move(guest), std::move(alias)));
}

absl::StatusOr<std::unique_ptr<MemoryRegion>> MemoryRegion::Adopt(std::string name, GuestAddress base,
                                                                  const Adopted& memory) {
  const absl::StatusOr<MemoryBacking> backing = BackingOf(name, memory);
  FERRITE_RETURN_IF_ERROR(backing.status());
  const BackingInfo& info = InfoOf(*backing);
  const uint64_t bytes = memory.mapping.size();
  FERRITE_RETURN_IF_ERROR(CheckPlace(name, base, bytes, info));
  const auto place = reinterpret_cast<uint64_t>(memory.mapping.data());
  if (place % info.host_page_bytes != 0 || memory.offset % info.host_page_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("memory ", name, ": it is mapped at 0x", absl::Hex(place),
                                                   ", from offset ", memory.offset, " of its file, which are no ",
                                                   "multiples of its pages' ", info.host_page_bytes, " bytes"));
  }
  Fd fd;
  Mapping alias;
  if (memory.fd >= 0) {
    fd.Reset(fcntl(memory.fd, F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) {
      return ErrnoStatus(absl::StrCat("memory ", name, ": take over the descriptor ", memory.fd));
    }
    if (IsHugetlb(*backing)) {
      // Huge pages were promised to its owner's mapping.
      FERRITE_ASSIGN_OR_RETURN(alias, MapRam(name, bytes, MAP_SHARED | MAP_NORESERVE, fd.get(), memory.offset, info));
    }
  }
  return std::unique_ptr<MemoryRegion>(new MemoryRegion(std::move(name), base, *backing, std::move(fd), memory.offset,
                                                        Mapping::Borrow(memory.mapping), std::move(alias)));
}

MemoryRegion::MemoryRegion(std::string name, GuestAddress base, MemoryBacking backing, Fd fd, uint64_t offset,
                           Mapping guest, Mapping alias)
    : name_(std::move(name)),
      base_(base),
      backing_(backing),
      fd_(std::move(fd)),
      offset_(offset),
      guest_mapping_(std::move(guest)),
      alias_mapping_(std::move(alias)),
      own_writes_(guest_mapping_.size() / kPageBytes) {}

void MemoryRegion::MarkWritten(uint64_t offset, uint64_t bytes) {
  if (bytes == 0) {
    return;
  }
  FERRITE_CHECK(bytes <= this->bytes() && offset <= this->bytes() - bytes);
  const uint64_t first = offset / kPageBytes;
  const uint64_t last = (offset + bytes - 1) / kPageBytes;
  if (first == last) {
    own_writes_.Set(first);
  } else {
    own_writes_.SetRange(first, last - first + 1);
  }
}

absl::StatusOr<uint64_t> MemoryRegion::Discard(uint64_t offset, uint64_t bytes) {
  FERRITE_CHECK(bytes <= this->bytes() && offset <= this->bytes() - bytes);
  const uint64_t unit = host_page_bytes();
  const uint64_t first = (offset + unit - 1) / unit * unit;
  const uint64_t end = (offset + bytes) / unit * unit;
  if (first >= end) {
    return 0;
  }
  const uint64_t length = end - first;
  int result = 0;
  if (fd_.valid()) {
    result = fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset_ + first),
                       static_cast<off_t>(length));
  } else {
    result = madvise(guest_mapping_.data() + first, length, MADV_DONTNEED);
    if (result != 0 && errno == EINVAL) {
      // Locked memory needs the explicit form (Linux 5.18).
      result = madvise(guest_mapping_.data() + first, length, MADV_DONTNEED_LOCKED);
    }
  }
  const int error = errno;
  const absl::Status healed = result == 0 && lost_count_.load() != 0 ? HealLost(first, length) : absl::OkStatus();
  // After the zeroes are there, so that whoever takes the bits sees them; also when only a part was done.
  MarkWritten(first, length);
  if (result != 0) {
    return ErrnoStatus(error, absl::StrCat("give back ", length, " bytes at offset ", first, " of memory ", name_));
  }
  FERRITE_RETURN_IF_ERROR(healed);
  return length;
}

absl::StatusOr<uint64_t> MemoryRegion::ResidentBytes() const {
  struct stat info = {};
  if (fd_.valid() && fstat(fd_.get(), &info) != 0) {
    return ErrnoStatus(absl::StrCat("fstat of memory ", name_));
  }
  if (fd_.valid() && static_cast<uint64_t>(info.st_size) == bytes()) {
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }
  constexpr uint64_t kChunkPages = 16384;
  std::vector<unsigned char> present(std::min(kChunkPages, pages()));
  uint64_t resident = 0;
  for (uint64_t page = 0; page < pages(); page += kChunkPages) {
    const uint64_t count = std::min(kChunkPages, pages() - page);
    if (mincore(guest_mapping_.data() + page * kPageBytes, count * kPageBytes, present.data()) != 0) {
      return ErrnoStatus(absl::StrCat("mincore of memory ", name_));
    }
    for (uint64_t i = 0; i < count; ++i) {
      resident += (present[i] & 1) * kPageBytes;
    }
  }
  return resident;
}

absl::StatusOr<uint64_t> MemoryRegion::HugeBytes() const {
  if (IsHugetlb(backing_)) {
    return ResidentBytes();
  }
  std::ifstream maps("/proc/self/smaps");
  const auto start = reinterpret_cast<uint64_t>(guest_mapping_.data());
  bool inside = false;
  uint64_t kib = 0;
  // Some thousand lines, whose words are looked at where they are.
  for (std::string line; std::getline(maps, line);) {
    const absl::string_view text = line;
    const absl::string_view first = text.substr(0, text.find(' '));
    uint64_t from = 0;
    uint64_t figure = 0;
    // A mapping's line begins with its addresses, in hexadecimal; those of its figures with a name.
    if (!absl::EndsWith(first, ":")) {
      inside = absl::SimpleHexAtoi(first.substr(0, first.find('-')), &from) && start <= from && from < start + bytes();
    } else if (inside && (first == "AnonHugePages:" || first == "ShmemPmdMapped:") &&
               absl::SimpleAtoi(absl::StripSuffix(text.substr(first.size()), " kB"), &figure)) {
      kib += figure;
    }
  }
  return maps.eof() ? absl::StatusOr<uint64_t>(kib << 10)
                    : ErrnoStatus(absl::StrCat("read /proc/self/smaps for memory ", name_));
}

void MemoryRegion::DropAlias() {
  // Piece by piece: on some kernels a vCPU's fault waits until no range at all is being unmapped.
  const uint64_t piece = std::max(host_page_bytes(), uint64_t{64} << 20);
  for (uint64_t done = 0; done < alias_mapping_.size(); done += piece) {
    // Of memory that is shared this forgets page tables alone. What a kernel refuses (of huge pages) munmap(2) does.
    (void)madvise(alias_mapping_.data() + done, std::min(piece, alias_mapping_.size() - done), MADV_DONTNEED);
  }
  alias_mapping_ = Mapping();
}

absl::Status MemoryRegion::SetThp(bool on) {
  if (IsHugetlb(backing_)) {
    return absl::OkStatus();
  }
  const bool done = madvise(guest_mapping_.data(), bytes(), on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0;
  if (!done && errno != EINVAL) {
    return ErrnoStatus(absl::StrCat("advise transparent huge pages for memory ", name_));
  }
  thp_.store(on && done, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status MemoryRegion::Lock() {
  // mlock(2) fails at a lost page, which has nothing to lock.
  uint64_t from = 0;
  while (from < bytes()) {
    const uint64_t lost = NextLost(from).value_or(bytes());
    if (lost > from && mlock(guest_mapping_.data() + from, lost - from) != 0) {
      const int error = errno;
      // A part may be locked already.
      (void)munlock(guest_mapping_.data(), bytes());
      return ErrnoStatus(
          error, absl::StrCat("lock ", bytes(), " bytes of memory ", name_, " (RLIMIT_MEMLOCK is ", MemlockLimitText(),
                              "; raise it with `ulimit -l unlimited` or LimitMEMLOCK=infinity, or grant "
                              "CAP_IPC_LOCK)"));
    }
    from = lost + host_page_bytes();
  }
  return absl::OkStatus();
}

absl::Status MemoryRegion::Unlock() {
  if (munlock(guest_mapping_.data(), bytes()) != 0) {
    return ErrnoStatus(absl::StrCat("unlock memory ", name_));
  }
  return absl::OkStatus();
}

}  // namespace ferrite
