#include "migration/placing/anonymous_placer.h"

#include <sys/mman.h>

#include <utility>

#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;

}  // namespace

// ---- Before the switchover ----

absl::StatusOr<std::span<uint8_t>> AnonymousPlacer::FillTarget(PageRun run) {
  FERRITE_RETURN_IF_ERROR(InBlocks(run, [this](uint64_t block, PageRun piece) { return MakeRoom(block, piece); }));
  return Guest(run);
}

absl::Status AnonymousPlacer::MakeRoom(uint64_t block, PageRun run) {
  FERRITE_ASSIGN_OR_RETURN(const bool is_huge, MakeHuge(block));
  if (is_huge) {
    return absl::OkStatus();
  }
  uint64_t page = run.first;
  while (page < run.first + run.count && states().Get(page) == PageState::kPresent) {
    ++page;
  }
  if (page == run.first + run.count) {
    return absl::OkStatus();
  }
  const MonotonicTime start = clock().Now();
  const absl::Status status = Populate(Guest(run));
  if (page == run.first) {
    fill_cost().TookSmall(clock().Now() - start, run.count);
  }
  return status;
}

absl::StatusOr<bool> AnonymousPlacer::PrepareFaults(const UserfaultFeatures&) {
  FERRITE_RETURN_IF_ERROR(MakeExact());
  return false;
}

absl::Status AnonymousPlacer::MakeExact() {
  if (exact()) {
    return absl::OkStatus();
  }
  // From here on neither a fault nor khugepaged brings in pages that did not come.
  FERRITE_RETURN_IF_ERROR(AllowHuge(false));
  PageRun away;
  for (uint64_t page = 0; page < pages();) {
    // The guest stands still: blocks that nothing was put into are not looked at page by page.
    const bool untouched = Get(BlockOf(page)) == Block::kUntouched;
    const uint64_t count = untouched ? std::min(kBlockPages, pages() - page) : 1;
    if (untouched || states().Get(page) == PageState::kAbsent) {
      away = {.first = away.count > 0 ? away.first : page, .count = away.count + count};
    } else if (away.count > 0) {
      FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop(std::exchange(away, {})));
    }
    page += count;
  }
  if (away.count > 0) {
    FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop(away));
  }
  KeepSmall();
  return absl::OkStatus();
}

absl::Status AnonymousPlacer::Drop(PageRun run) {
  FERRITE_RETURN_IF_ERROR(MakeExact());
  FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop(run));
  const uint64_t end = run.first + run.count;
  for (uint64_t block = BlockOf(run.first); block <= BlockOf(end - 1); ++block) {
    const bool whole = run.first <= block * kBlockPages && (block + 1) * kBlockPages <= end;
    Set(block, whole ? Block::kUntouched : Block::kSmall);
  }
  return absl::OkStatus();
}

// ---- After it ----

absl::Status AnonymousPlacer::Stage(uint64_t, Mapping& memory) {
  if (memory.empty()) {
    FERRITE_ASSIGN_OR_RETURN(
        memory, Mapping::Create("a block that comes", kBlockBytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                /*fd=*/-1, /*offset=*/0, /*alignment=*/kBlockBytes));
    // A page that a child shares cannot change hands; what the guest's memory is kept out of, its pages are, too.
    for (const int advice : {MADV_HUGEPAGE, MADV_DONTFORK, MADV_DONTDUMP}) {
      (void)madvise(memory.data(), kBlockBytes, advice);
    }
  }
  // Memory comes with the first touch.
  *static_cast<volatile uint8_t*>(memory.data()) = 0;
  return absl::OkStatus();
}

uint64_t AnonymousPlacer::ShowBlock(uint64_t block, uint8_t* memory) {
  return userfault().Move(Guest({.first = block * kBlockPages, .count = kBlockPages}), memory) / kPageBytes;
}

}  // namespace ferrite::migration
