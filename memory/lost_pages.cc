// What a MemoryRegion does with host pages that the hardware lost (docs/broken_pages.md).
#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/memory_region.h"

namespace ferrite {
namespace {

// Each may be a mapping of its own, of which a process has 65,530 (vm.max_map_count).
constexpr uint64_t kMostHiddenPages = 16384;

}  // namespace

bool MemoryRegion::AddLost(uint64_t offset) {
  FERRITE_CHECK(offset < bytes());
  absl::MutexLock lock(&lost_mutex_);
  const bool added = lost_.emplace(offset / host_page_bytes() * host_page_bytes(), /*hidden=*/false).second;
  lost_count_ = lost_.size();
  return added;
}

// A SIGBUS or EFAULT may also mean that the host has no page to give, or could not read it from where it was swapped
// to.
std::optional<bool> MemoryRegion::AddIfLost(uint64_t offset) {
  if (IsLost(offset)) {
    return false;
  }
  uint8_t* const page = guest_mapping_.data() + offset / host_page_bytes() * host_page_bytes();
  if (madvise(page, host_page_bytes(), MADV_POPULATE_READ) == 0 || errno != EHWPOISON) {
    return std::nullopt;
  }
  return AddLost(offset);
}

bool MemoryRegion::IsLost(uint64_t offset) const {
  absl::MutexLock lock(&lost_mutex_);
  return lost_.contains(offset / host_page_bytes() * host_page_bytes());
}

std::vector<uint64_t> MemoryRegion::LostPages() const {
  absl::MutexLock lock(&lost_mutex_);
  std::vector<uint64_t> offsets;
  for (const auto& [offset, hidden] : lost_) {
    offsets.push_back(offset);
  }
  return offsets;
}

std::optional<uint64_t> MemoryRegion::NextLost(uint64_t offset) const {
  if (lost_count_.load() == 0) {
    return std::nullopt;
  }
  absl::MutexLock lock(&lost_mutex_);
  const auto page = lost_.lower_bound(offset / host_page_bytes() * host_page_bytes());
  return page == lost_.end() ? std::nullopt : std::optional(page->first);
}

absl::Status MemoryRegion::HideLost(uint64_t offset) {
  FERRITE_CHECK(offset < bytes());
  const uint64_t unit = host_page_bytes();
  const uint64_t page = offset / unit * unit;
  absl::MutexLock lock(&lost_mutex_);
  const auto [place, added] = lost_.emplace(page, /*hidden=*/false);
  if (place->second) {
    return absl::OkStatus();
  }
  if (absl::Status status = MapEmpty(page); !status.ok()) {
    if (added) {
      lost_.erase(place);
    }
    return status;
  }
  place->second = true;
  ++hidden_count_;
  lost_count_ = lost_.size();
  return absl::OkStatus();
}

// A file that has nothing: who touches a mapping of it gets a SIGBUS. Not to be read as far as KVM knows, which
// otherwise lets the vCPU wait for a page that it takes for one on its way, again and again; who may write reads, too.
// Neighbours become one mapping.
absl::Status MemoryRegion::MapEmpty(uint64_t page) {
  const std::string what = absl::StrCat("hide the lost page at offset ", page, " of memory ", name_);
  if (hidden_count_ == kMostHiddenPages) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": it would be one of more than ", kMostHiddenPages));
  }
  if (!empty_.valid()) {
    empty_ = Fd(memfd_create("ferrite-lost", MFD_CLOEXEC));
  }
  return empty_.valid() &&
                 mmap(guest_mapping_.data() + page, host_page_bytes(), PROT_WRITE,
                      MAP_SHARED | MAP_FIXED | MAP_NORESERVE, empty_.get(), static_cast<off_t>(page)) != MAP_FAILED
             ? absl::OkStatus()
             : ErrnoStatus(what);
}

std::vector<uint64_t> MemoryRegion::HiddenPages() const {
  absl::MutexLock lock(&lost_mutex_);
  std::vector<uint64_t> offsets;
  for (const auto& [offset, hidden] : lost_) {
    if (hidden) {
      offsets.push_back(offset);
    }
  }
  return offsets;
}

// A hole in the file takes the bad page out of it, but every mapping that has met it keeps a mark of its own, which
// only MADV_DONTNEED of that mapping takes away. For private memory it was that already.
absl::Status MemoryRegion::HealLost(uint64_t first, uint64_t length) {
  absl::MutexLock lock(&lost_mutex_);
  for (auto page = lost_.lower_bound(first); page != lost_.end() && page->first < first + length;
       page = lost_.erase(page)) {
    FERRITE_RETURN_IF_ERROR(ForgetLost(page->first, page->second));
    hidden_count_ -= page->second ? 1 : 0;
    --lost_count_;
  }
  return absl::OkStatus();
}

absl::Status MemoryRegion::ForgetLost(uint64_t offset, bool hidden) {
  const uint64_t unit = host_page_bytes();
  int result = 0;
  if (hidden) {
    uint8_t* const at = guest_mapping_.data() + offset;
    const int flags = MAP_FIXED | MAP_NORESERVE | (fd_.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    result = mmap(at, unit, PROT_READ | PROT_WRITE, flags, fd_.get(),
                  fd_.valid() ? static_cast<off_t>(offset_ + offset) : 0) == MAP_FAILED
                 ? -1
                 : 0;
    // As its neighbours are advised.
    for (const int advice : {MADV_DONTDUMP, thp() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE}) {
      (void)madvise(at, unit, advice);
    }
  }
  for (const std::span<uint8_t> mapping : {guest_mapping(), alias_mapping()}) {
    if (!fd_.valid() || mapping.empty() || result != 0) {
      continue;
    }
    result = madvise(mapping.data() + offset, unit, MADV_DONTNEED);
    if (result != 0 && errno == EINVAL) {
      result = madvise(mapping.data() + offset, unit, MADV_DONTNEED_LOCKED);
    }
  }
  return result == 0 ? absl::OkStatus()
                     : ErrnoStatus(absl::StrCat("forget the lost page at offset ", offset, " of memory ", name_));
}

}  // namespace ferrite
