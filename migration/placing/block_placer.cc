#include "migration/placing/block_placer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/status.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;
// Of a block of which less is there the rest was given back, or never used.
constexpr uint64_t kWorthCompacting = kBlockPages / 8;

// The kernel has huge pages where both are at a multiple of their size.
bool IsAligned(const MemoryRegion& region) {
  return reinterpret_cast<uint64_t>(region.guest_mapping().data()) % kBlockBytes == 0 &&
         (region.fd() < 0 || region.file_offset() % kBlockBytes == 0);
}

}  // namespace

BlockPlacer::BlockPlacer(MemoryRegion& region, PageStates& states, const Clock& clock)
    : MemoryPlacer(region, states),
      clock_(clock),
      wants_huge_(region.thp()),
      huge_(wants_huge_ && IsAligned(region)),
      blocks_(std::make_unique<std::atomic<Block>[]>(region.pages() / kBlockPages + 1)),
      gatherer_(states, clock, *this),
      allowed_(region.thp()) {}

absl::Status BlockPlacer::AllowHuge(bool on) {
  const absl::MutexLock lock(&mutex_);
  if (allowed_ == on) {
    return absl::OkStatus();
  }
  allowed_ = on;
  return region().SetThp(on);
}

// ---- Before the switchover ----

absl::Status BlockPlacer::InBlocks(PageRun run, absl::FunctionRef<absl::Status(uint64_t, PageRun)> visit) {
  for (PageRun rest = run; rest.count > 0;) {
    const uint64_t in_block = std::min(rest.count, kBlockPages - rest.first % kBlockPages);
    FERRITE_RETURN_IF_ERROR(visit(BlockOf(rest.first), {.first = rest.first, .count = in_block}));
    rest = {.first = rest.first + in_block, .count = rest.count - in_block};
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> BlockPlacer::MakeHuge(uint64_t block) {
  const bool may_be_huge = huge_ && !exact_ && IsWholeBlock(block);
  if (may_be_huge && Get(block) == Block::kUntouched) {
    const bool huge = fill_cost_.WantsHuge();
    FERRITE_RETURN_IF_ERROR(AllowHuge(huge));
    Block was = Block::kUntouched;
    if (huge && blocks_[block].compare_exchange_strong(was, Block::kHuge, std::memory_order_relaxed)) {
      const MonotonicTime start = clock_.Now();
      FERRITE_RETURN_IF_ERROR(Populate(Guest({.first = block * kBlockPages, .count = kBlockPages})));
      fill_cost_.TookHuge(clock_.Now() - start);
      return true;
    }
  }
  if (Get(block) == Block::kHuge) {
    // Where another channel is at it, this one faults.
    return true;
  }
  Set(block, Block::kSmall);
  return false;
}

absl::Status BlockPlacer::PutZero(PageRun run) {
  return InBlocks(run, [this](uint64_t block, PageRun piece) { return FillZeroIn(block, piece); });
}

absl::Status BlockPlacer::NoteWritten(PageRun run) {
  return InBlocks(run, [this](uint64_t block, PageRun) {
    // What it is made of the kernel knows: it is looked at when all is here.
    Block was = Block::kUntouched;
    (void)blocks_[block].compare_exchange_strong(was, Block::kSmall, std::memory_order_relaxed);
    return absl::OkStatus();
  });
}

absl::Status BlockPlacer::FillZeroIn(uint64_t block, PageRun run) {
  if (MayBeWritten()) {
    return ClearZero(run);
  }
  if (Get(block) != Block::kHuge) {
    return PunchZero(run);
  }
  if (run.count == kBlockPages) {
    FERRITE_RETURN_IF_ERROR(region().Discard(run.first * kPageBytes, kBlockBytes).status());
    Set(block, Block::kUntouched);
    SetPresent(run);
    return absl::OkStatus();
  }
  // A hole would split it. What did not come is zero already.
  for (uint64_t page = run.first; page < run.first + run.count; ++page) {
    if (states().Get(page) == PageState::kPresent) {
      FERRITE_RETURN_IF_ERROR(Clear({.first = page, .count = 1}));
    }
    states().SetPresent(page);
  }
  return absl::OkStatus();
}

// ---- After it ----

void BlockPlacer::BeginGathering(uint64_t page) {
  if (huge_ && CanGather()) {
    gatherer_.Begin(page);
  }
}

absl::StatusOr<std::span<uint8_t>> BlockPlacer::StageTarget(PageRun run, Showing showing) {
  return showing == Showing::kGathered ? gatherer_.Target(run) : std::span<uint8_t>();
}

absl::Status BlockPlacer::Publish(PageRun run, const uint8_t* buffer) { return gatherer_.Publish(run, buffer); }

absl::Status BlockPlacer::EndGathering(uint64_t page) { return gatherer_.End(page); }

void BlockPlacer::Abandon(PageRun run) {
  gatherer_.Abandon(run);
  Placer::Abandon(run);
}

absl::StatusOr<bool> BlockPlacer::ShowWanted(uint64_t page) { return gatherer_.ShowWanted(page); }

absl::Status BlockPlacer::Copy(PageRun run, const uint8_t* bytes) {
  for (uint64_t block = BlockOf(run.first); block <= BlockOf(run.first + run.count - 1); ++block) {
    Set(block, Block::kSmall);
  }
  return ShowPages(run, bytes);
}

uint64_t BlockPlacer::Move(uint64_t block, uint8_t* memory) {
  const uint64_t moved = ShowBlock(block, memory);
  Set(block, moved == kBlockPages ? WholeBlock() : Block::kSmall);
  if (moved == kBlockPages) {
    moved_blocks_.fetch_add(1, std::memory_order_relaxed);
  }
  if (moved > 0) {
    Finish({.first = block * kBlockPages, .count = moved});
  }
  return moved;
}

absl::Status BlockPlacer::ShowZero(const Claimed& claimed) {
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

absl::StatusOr<uint64_t> BlockPlacer::PublishZero(PageRun run, Showing showing) {
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

absl::Status BlockPlacer::Disarm() {
  FERRITE_RETURN_IF_ERROR(MemoryPlacer::Disarm());
  gatherer_.Release();
  return AllowHuge(wants_huge_);
}

uint64_t BlockPlacer::Compact(absl::FunctionRef<bool()> stop) {
  if (!huge_) {
    return 0;
  }
  NoteFallbacks();
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

void BlockPlacer::NoteFallbacks() {
  uint64_t huge = 0;
  for (uint64_t block = 0; block < blocks(); ++block) {
    huge += Get(block) == Block::kHuge ? 1 : 0;
  }
  // Which blocks these are the kernel does not tell; those that are huge already cost it a look.
  if (const auto bytes = region().HugeBytes(); huge > 0 && bytes.ok() && *bytes < huge * kBlockPages * kPageBytes) {
    for (uint64_t block = 0; block < blocks(); ++block) {
      if (Get(block) == Block::kHuge) {
        Set(block, Block::kSmall);
      }
    }
  }
}

bool BlockPlacer::IsPoisoned(uint64_t block) const {
  for (uint64_t page = block * kBlockPages; page < (block + 1) * kBlockPages; ++page) {
    if (states().Get(page) == PageState::kPoisoned) {
      return true;
    }
  }
  return false;
}

uint64_t BlockPlacer::CompactOnce(absl::FunctionRef<bool()> stop, bool& again) {
  constexpr int kMostWithoutMemory = 4;
  int none_left = 0;  // times in a row
  uint64_t compacted = 0;
  std::vector<unsigned char> there(kBlockPages);
  for (uint64_t block = 0; IsWholeBlock(block) && !stop(); ++block) {
    if (Get(block) != Block::kSmall) {
      continue;
    }
    if (IsPoisoned(block)) {
      // It would be forgotten.
      continue;
    }
    const std::span<uint8_t> memory = Guest({.first = block * kBlockPages, .count = kBlockPages});
    if (mincore(memory.data(), memory.size(), there.data()) != 0 ||
        static_cast<uint64_t>(std::count_if(there.begin(), there.end(),
                                            [](unsigned char page) { return (page & 1) != 0; })) < kWorthCompacting) {
      continue;
    }
    // What the kernel cannot make huge (it has no such advice, or nothing to make one of) stays as it is.
    if (madvise(memory.data(), memory.size(), MADV_COLLAPSE) == 0) {
      Set(block, Block::kHuge);
      ++compacted;
      none_left = 0;
    } else if (errno == ENOMEM && ++none_left == kMostWithoutMemory) {
      // It looks for one each time, at the guest's expense.
      break;
    } else {
      again |= errno == EAGAIN || errno == EBUSY;
    }
  }
  return compacted;
}

}  // namespace ferrite::migration
