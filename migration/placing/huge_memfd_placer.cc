#include "migration/placing/huge_memfd_placer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>

#include "base/memory_settings.h"
#include "base/status.h"
#include "migration/placing/own_memory.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;
// Pages that are shown with one that was touched: those are here, too.
constexpr uint64_t kShownWithOne = 64;

}  // namespace

bool HugeMemfdPlacer::MayBeHuge(const MemoryRegion& region) {
  std::optional<std::string> choice = HugePageChoice("shmem_enabled");
  if (choice != "deny" && choice != "force") {
    // Linux 6.11 has a setting for each size.
    const std::optional<std::string> of_this_size = HugePageChoice("hugepages-2048kB/shmem_enabled");
    choice = of_this_size.has_value() && of_this_size != "inherit" ? of_this_size : choice;
  }
  if (choice == "never" || choice == "deny") {
    return false;
  }
  return choice != "advise" || region.thp();
}

// ---- Before the switchover ----

bool HugeMemfdPlacer::IsHuge(PageRun run) const {
  for (uint64_t block = BlockOf(run.first); block <= BlockOf(run.first + run.count - 1); ++block) {
    if (Get(block) != Block::kHuge) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<std::span<uint8_t>> HugeMemfdPlacer::FillTarget(PageRun run) {
  FERRITE_RETURN_IF_ERROR(InBlocks(run, [this](uint64_t block, PageRun) { return MakeHuge(block).status(); }));
  return IsHuge(run) ? Guest(run) : std::span<uint8_t>();
}

absl::Status HugeMemfdPlacer::Put(PageRun run, const uint8_t* buffer) {
  // What a block is does not change between FillTarget() and here.
  if (!IsHuge(run)) {
    const MonotonicTime start = clock().Now();
    FERRITE_RETURN_IF_ERROR(Write(run, buffer));
    fill_cost().TookSmall(clock().Now() - start, run.count);
  }
  return absl::OkStatus();
}

absl::Status HugeMemfdPlacer::Drop(PageRun run) {
  return InBlocks(run, [this](uint64_t block, PageRun piece) -> absl::Status {
    if (Get(block) != Block::kHuge || piece.count == kBlockPages) {
      FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop(piece));
      Set(block, piece.count == kBlockPages ? Block::kUntouched : Block::kSmall);
      return absl::OkStatus();
    }
    // A hole would split it.
    for (uint64_t page = piece.first; page < piece.first + piece.count; ++page) {
      if (states().Get(page) != PageState::kAbsent) {
        FERRITE_RETURN_IF_ERROR(Clear({.first = page, .count = 1}));
      }
    }
    return absl::OkStatus();
  });
}

// ---- The switchover ----

absl::StatusOr<bool> HugeMemfdPlacer::PrepareFaults(const UserfaultFeatures& features) {
  // From here on nobody but us maps anything for the guest: neither a fault nor khugepaged.
  FERRITE_RETURN_IF_ERROR(AllowHuge(false));
  KeepSmall();
  if (!features.minor_shmem) {
    FERRITE_RETURN_IF_ERROR(PunchAbsent());
    return false;
  }
  FERRITE_RETURN_IF_ERROR(UnmapParts());
  FERRITE_ASSIGN_OR_RETURN(alias_, Mapping::Create(absl::StrCat("the second mapping of memory ", region().name()),
                                                   region().bytes(), MAP_SHARED | MAP_NORESERVE, region().fd(),
                                                   static_cast<off_t>(region().file_offset()), kBlockBytes));
  for (const int advice : {huge() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE, MADV_DONTFORK, MADV_DONTDUMP}) {
    (void)madvise(alias_.data(), alias_.size(), advice);
  }
  return true;
}

absl::Status HugeMemfdPlacer::UnmapParts() {
  const auto is_here = [this](uint64_t block) {
    for (uint64_t page = block * kBlockPages; page < std::min(pages(), (block + 1) * kBlockPages); ++page) {
      if (states().Get(page) != PageState::kPresent) {
        return false;
      }
    }
    return true;
  };
  for (uint64_t block = 0; block < blocks();) {
    uint64_t next = block;
    while (next < blocks() && !is_here(next)) {
      Set(next, Block::kSmall);
      ++next;
    }
    if (next == block) {
      ++block;
      continue;
    }
    const uint64_t first = block * kBlockPages;
    const std::span<uint8_t> memory = Guest({.first = first, .count = std::min(pages(), next * kBlockPages) - first});
    if (madvise(memory.data(), memory.size(), MADV_DONTNEED) != 0) {
      return ErrnoStatus("unmap memory that is not all here");
    }
    block = next;
  }
  return absl::OkStatus();
}

absl::Status HugeMemfdPlacer::PunchAbsent() {
  for (uint64_t page = 0; page < pages();) {
    uint64_t next = page;
    while (next < pages() && states().Get(next) != PageState::kPresent) {
      ++next;
    }
    if (next == page) {
      ++page;
      continue;
    }
    FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop({.first = page, .count = next - page}));
    // A huge page that cannot be split keeps all its pages in the file, as zeros.
    const auto end = static_cast<off_t>(region().file_offset() + next * kPageBytes);
    const off_t data = lseek(region().fd(), static_cast<off_t>(region().file_offset() + page * kPageBytes), SEEK_DATA);
    if (data >= 0 && data < end) {
      return absl::FailedPreconditionError(
          "the memfd has huge pages (transparent_hugepage/shmem_enabled), for which userfaultfd of this kernel lacks "
          "MINOR faults (Linux 5.14 has them); anonymous memory and pre-copy do without them");
    }
    page = next;
  }
  return absl::OkStatus();
}

// ---- After it ----

absl::Status HugeMemfdPlacer::Stage(uint64_t block, Mapping& memory) {
  memory = Mapping::Borrow(alias_.span().subspan(block * kBlockBytes, kBlockBytes));
  return Populate(memory.span());
}

absl::Status HugeMemfdPlacer::ShowPages(PageRun run, const uint8_t* bytes) {
  if (alias_.empty()) {
    return ShowCopy(run, bytes);
  }
  const bool staged = alias_.data() <= bytes && bytes < alias_.data() + alias_.size();
  uint64_t copied = 0;
  if (!staged) {
    const absl::Status status = userfault().CopyNew(Guest(run), bytes, unit_bytes(), copied);
    if (!absl::IsAlreadyExists(status)) {
      return Shown(run, copied, status);
    }
  }
  const uint64_t done = copied / kPageBytes;
  const PageRun rest{.first = run.first + done, .count = run.count - done};
  if (!staged) {
    // The page is in the file with its block, as zeros that nobody sees.
    if (const absl::Status status = Write(rest, bytes + copied); !status.ok()) {
      return Shown(run, copied, status);
    }
  }
  uint64_t shown = 0;
  const absl::Status status = userfault().Continue(Guest(rest), unit_bytes(), shown);
  return Shown(run, copied + shown, status);
}

uint64_t HugeMemfdPlacer::ShowBlock(uint64_t block, uint8_t*) {
  uint64_t shown = 0;
  // What is wrong says whoever shows the rest.
  (void)userfault().Continue(Guest({.first = block * kBlockPages, .count = kBlockPages}), unit_bytes(), shown);
  return shown / kPageBytes;
}

absl::Status HugeMemfdPlacer::ResolvePresent(uint64_t page) {
  if (alias_.empty()) {
    return MemoryPlacer::ResolvePresent(page);
  }
  const uint64_t end = std::min(pages(), (page / kShownWithOne + 1) * kShownWithOne);
  uint64_t count = 1;
  while (page + count < end && states().Get(page + count) == PageState::kPresent) {
    ++count;
  }
  uint64_t shown = 0;
  const absl::Status status = userfault().Continue(Guest({.first = page, .count = count}), unit_bytes(), shown);
  if (status.ok() || shown > 0 || absl::IsResourceExhausted(status)) {
    return shown > 0 ? absl::OkStatus() : OfOwnMemory(status);
  }
  // A hole is not in the file.
  return MemoryPlacer::ResolvePresent(page);
}

absl::Status HugeMemfdPlacer::Disarm() {
  FERRITE_RETURN_IF_ERROR(BlockPlacer::Disarm());
  Forget(std::move(alias_));
  return absl::OkStatus();
}

}  // namespace ferrite::migration
