#include "migration/placing/anonymous_placer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/status.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;
// Of a block of which less is there the rest was given back, or never used.
constexpr uint64_t kWorthCompacting = kBlockPages / 8;

}  // namespace

AnonymousPlacer::AnonymousPlacer(MemoryRegion& region, PageStates& states, const Clock& clock)
    : MemoryPlacer(region, states),
      clock_(clock),
      wants_huge_(region.thp()),
      huge_(wants_huge_ && reinterpret_cast<uint64_t>(region.guest_mapping().data()) % kBlockBytes == 0),
      blocks_(std::make_unique<std::atomic<Block>[]>(region.pages() / kBlockPages + 1)),
      gatherer_(states, clock, *this),
      allowed_(region.thp()) {}

absl::Status AnonymousPlacer::AllowHuge(bool on) {
  const absl::MutexLock lock(&mutex_);
  if (allowed_ == on) {
    return absl::OkStatus();
  }
  allowed_ = on;
  return region().SetThp(on);
}

// ---- Before the switchover ----

absl::Status AnonymousPlacer::InBlocks(PageRun run, absl::FunctionRef<absl::Status(uint64_t, PageRun)> visit) {
  for (PageRun rest = run; rest.count > 0;) {
    const uint64_t in_block = std::min(rest.count, kBlockPages - rest.first % kBlockPages);
    FERRITE_RETURN_IF_ERROR(visit(BlockOf(rest.first), {.first = rest.first, .count = in_block}));
    rest = {.first = rest.first + in_block, .count = rest.count - in_block};
  }
  return absl::OkStatus();
}

absl::StatusOr<std::span<uint8_t>> AnonymousPlacer::FillTarget(PageRun run) {
  FERRITE_RETURN_IF_ERROR(InBlocks(run, [this](uint64_t block, PageRun piece) { return MakeRoom(block, piece); }));
  return Guest(run);
}

absl::Status AnonymousPlacer::MakeRoom(uint64_t block, PageRun run) {
  std::atomic<Block>& state = blocks_[block];
  const bool may_be_huge = huge_ && !exact_ && IsWholeBlock(block);
  if (may_be_huge && state.load(std::memory_order_relaxed) == Block::kUntouched) {
    const bool huge = fill_cost_.WantsHuge();
    FERRITE_RETURN_IF_ERROR(AllowHuge(huge));
    Block was = Block::kUntouched;
    if (huge && state.compare_exchange_strong(was, Block::kHuge, std::memory_order_relaxed)) {
      const MonotonicTime start = clock_.Now();
      const absl::Status status = Populate(Guest({.first = block * kBlockPages, .count = kBlockPages}));
      fill_cost_.TookHuge(clock_.Now() - start);
      return status;
    }
  }
  if (state.load(std::memory_order_relaxed) == Block::kHuge) {
    // Where another channel is at it, this one faults.
    return absl::OkStatus();
  }
  state.store(Block::kSmall, std::memory_order_relaxed);
  uint64_t page = run.first;
  while (page < run.first + run.count && states().Get(page) == PageState::kPresent) {
    ++page;
  }
  if (page == run.first + run.count) {
    return absl::OkStatus();
  }
  const MonotonicTime start = clock_.Now();
  const absl::Status status = Populate(Guest(run));
  if (page == run.first) {
    fill_cost_.TookSmall(clock_.Now() - start, run.count);
  }
  return status;
}

absl::Status AnonymousPlacer::FillZero(PageRun run) {
  return InBlocks(run, [this](uint64_t block, PageRun piece) { return FillZeroIn(block, piece); });
}

absl::Status AnonymousPlacer::FillZeroIn(uint64_t block, PageRun run) {
  if (blocks_[block].load(std::memory_order_relaxed) != Block::kHuge) {
    return PunchZero(run);
  }
  if (run.count == kBlockPages) {
    FERRITE_RETURN_IF_ERROR(PunchZero(run));
    blocks_[block].store(Block::kUntouched, std::memory_order_relaxed);
    return absl::OkStatus();
  }
  // A hole would split it. What did not come is zero already.
  for (uint64_t page = run.first; page < run.first + run.count; ++page) {
    if (states().Get(page) == PageState::kPresent) {
      std::memset(Guest({.first = page, .count = 1}).data(), 0, kPageBytes);
    }
    states().SetPresent(page);
  }
  return absl::OkStatus();
}

absl::Status AnonymousPlacer::MakeExact() {
  if (exact_) {
    return absl::OkStatus();
  }
  // From here on neither a fault nor khugepaged brings in pages that did not come.
  FERRITE_RETURN_IF_ERROR(AllowHuge(false));
  for (uint64_t page = 0; page < pages();) {
    if (states().Get(page) != PageState::kAbsent) {
      ++page;
      continue;
    }
    uint64_t next = page + 1;
    while (next < pages() && states().Get(next) == PageState::kAbsent) {
      ++next;
    }
    FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop({.first = page, .count = next - page}));
    page = next;
  }
  exact_ = true;
  return absl::OkStatus();
}

absl::Status AnonymousPlacer::Drop(PageRun run) {
  FERRITE_RETURN_IF_ERROR(MakeExact());
  FERRITE_RETURN_IF_ERROR(MemoryPlacer::Drop(run));
  const uint64_t end = run.first + run.count;
  for (uint64_t block = BlockOf(run.first); block <= BlockOf(end - 1); ++block) {
    const bool whole = run.first <= block * kBlockPages && (block + 1) * kBlockPages <= end;
    blocks_[block].store(whole ? Block::kUntouched : Block::kSmall, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

// ---- After it ----

absl::StatusOr<std::span<uint8_t>> AnonymousPlacer::StageTarget(PageRun run, Showing showing) {
  const bool gathers = showing == Showing::kGathered && huge_ && userfault().features().move;
  return gathers ? gatherer_.Target(run) : std::span<uint8_t>();
}

absl::Status AnonymousPlacer::Publish(PageRun run, const uint8_t* buffer) { return gatherer_.Publish(run, buffer); }

absl::Status AnonymousPlacer::EndGathering(uint64_t page) { return gatherer_.End(page); }

void AnonymousPlacer::Abandon(PageRun run) {
  gatherer_.Abandon(run);
  Placer::Abandon(run);
}

absl::StatusOr<bool> AnonymousPlacer::ShowWanted(uint64_t page) { return gatherer_.ShowWanted(page); }

absl::Status AnonymousPlacer::Copy(PageRun run, const uint8_t* bytes) {
  NoteSmall(run);
  return ShowCopy(run, bytes);
}

uint64_t AnonymousPlacer::Move(uint64_t block, uint8_t* memory) {
  const PageRun all{.first = block * kBlockPages, .count = kBlockPages};
  const uint64_t moved = userfault().Move(Guest(all), memory) / kPageBytes;
  blocks_[block].store(moved == kBlockPages ? Block::kHuge : Block::kSmall, std::memory_order_relaxed);
  if (moved == kBlockPages) {
    moved_blocks_.fetch_add(1, std::memory_order_relaxed);
  }
  if (moved > 0) {
    Finish({.first = all.first, .count = moved});
  }
  return moved;
}

absl::Status AnonymousPlacer::ShowZero(const Claimed& claimed) {
  const PageRun run = claimed.run;
  FERRITE_ASSIGN_OR_RETURN(const std::span<uint8_t> bytes,
                           StageTarget(run, claimed.wanted ? Showing::kAtOnce : Showing::kGathered));
  if (!bytes.empty()) {
    return gatherer_.PublishZero(run, bytes);
  }
  // A hole is zero.
  Finish(run);
  return userfault().Wake(Guest(run));
}

void AnonymousPlacer::NoteSmall(PageRun run) {
  for (uint64_t block = BlockOf(run.first); block <= BlockOf(run.first + run.count - 1); ++block) {
    blocks_[block].store(Block::kSmall, std::memory_order_relaxed);
  }
}

absl::StatusOr<uint64_t> AnonymousPlacer::PublishZero(PageRun run, Showing showing) {
  if (showing == Showing::kAtOnce || run.count >= kBlockPages) {
    return MemoryPlacer::PublishZero(run, showing);
  }
  uint64_t news = 0;
  for (PageRun rest = run; rest.count > 0;) {
    const Claimed claimed = Claim(rest);
    const uint64_t done = std::max<uint64_t>(claimed.run.count, 1);
    rest = {.first = rest.first + done, .count = rest.count - done};
    if (claimed.run.count > 0) {
      news += claimed.run.count;
      FERRITE_RETURN_IF_ERROR(ShowZero(claimed));
    }
  }
  return news;
}

// ---- At the end ----

absl::Status AnonymousPlacer::Disarm() {
  FERRITE_RETURN_IF_ERROR(MemoryPlacer::Disarm());
  gatherer_.Release();
  return AllowHuge(wants_huge_);
}

uint64_t AnonymousPlacer::Compact(absl::FunctionRef<bool()> stop) {
  if (!huge_) {
    return 0;
  }
  uint64_t compacted = 0;
  // The kernel finds pages in use for a moment, and says so of the whole block.
  constexpr int kMostPasses = 4;
  for (int pass = 0; pass < kMostPasses && !stop(); ++pass) {
    bool again = false;
    compacted += CompactOnce(stop, again);
    if (!again) {
      break;
    }
  }
  return compacted;
}

uint64_t AnonymousPlacer::CompactOnce(absl::FunctionRef<bool()> stop, bool& again) {
  uint64_t compacted = 0;
  std::vector<unsigned char> there(kBlockPages);
  for (uint64_t block = 0; IsWholeBlock(block) && !stop(); ++block) {
    if (blocks_[block].load(std::memory_order_relaxed) != Block::kSmall) {
      continue;
    }
    const std::span<uint8_t> memory = Guest({.first = block * kBlockPages, .count = kBlockPages});
    if (mincore(memory.data(), memory.size(), there.data()) != 0 ||
        static_cast<uint64_t>(std::count_if(there.begin(), there.end(),
                                            [](unsigned char page) { return (page & 1) != 0; })) < kWorthCompacting) {
      continue;
    }
    // What the kernel cannot make huge (no huge page is left, or it has no such advice) stays as it is.
    if (madvise(memory.data(), memory.size(), MADV_COLLAPSE) == 0) {
      blocks_[block].store(Block::kHuge, std::memory_order_relaxed);
      ++compacted;
    } else {
      again |= errno == EAGAIN || errno == EBUSY;
    }
  }
  return compacted;
}

}  // namespace ferrite::migration
