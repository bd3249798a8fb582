#include "migration/placing/block_gatherer.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace ferrite::migration {
namespace {

// Chunks that are kept for further blocks: one for each channel is enough.
constexpr size_t kMostFree = 16;

uint64_t BlockOf(uint64_t page) { return page / kBlockPages; }

}  // namespace

BlockGatherer::BlockGatherer(PageStates& states, const Clock& clock, Shower& shower)
    : states_(states), clock_(clock), shower_(shower) {}

BlockGatherer::Pages BlockGatherer::Mask(PageRun run) {
  Pages mask;
  mask.set();
  return (mask >> (kBlockPages - run.count)) << (run.first % kBlockPages);
}

std::span<uint8_t> BlockGatherer::Target(PageRun run) {
  const std::shared_ptr<Chunk> chunk = Find(BlockOf(run.first));
  if (chunk == nullptr) {
    return {};
  }
  const absl::MutexLock lock(&chunk->mutex);
  if (chunk->block != BlockOf(run.first) || chunk->ending) {
    return {};
  }
  chunk->reading |= Mask(run);
  return chunk->memory.span().subspan(run.first % kBlockPages * kPageBytes, run.count * kPageBytes);
}

std::shared_ptr<BlockGatherer::Chunk> BlockGatherer::Find(uint64_t block) {
  const absl::MutexLock lock(&mutex_);
  for (const OpenChunk& open : open_) {
    if (open.block == block) {
      return open.chunk;
    }
  }
  return nullptr;
}

bool BlockGatherer::IsEmpty(uint64_t page) const {
  const uint64_t end = page + kBlockPages;
  if (end > states_.units()) {
    return false;
  }
  for (; page < end; ++page) {
    const PageState state = states_.Get(page);
    if (state != PageState::kAbsent && state != PageState::kRequested) {
      return false;
    }
  }
  return true;
}

void BlockGatherer::Begin(uint64_t page) {
  const uint64_t block = BlockOf(page);
  if (page % kBlockPages != 0 || Find(block) != nullptr || !IsEmpty(page) || !cost_.WantsHuge()) {
    return;
  }
  std::shared_ptr<Chunk> chunk;
  {
    const absl::MutexLock lock(&mutex_);
    if (!free_.empty()) {
      chunk = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (chunk == nullptr) {
    chunk = std::make_shared<Chunk>();
  }
  const MonotonicTime start = clock_.Now();
  if (!shower_.Stage(block, chunk->memory).ok()) {
    return;
  }
  {
    const absl::MutexLock lock(&chunk->mutex);
    chunk->cost = clock_.Now() - start;
    chunk->block = block;
  }
  const absl::MutexLock lock(&mutex_);
  for (const OpenChunk& open : open_) {
    if (open.block == block) {
      // Two channels bring the same block.
      return;
    }
  }
  open_.push_back({.block = block, .chunk = chunk});
}

absl::Status BlockGatherer::Publish(PageRun run, const uint8_t* buffer) {
  if (const std::shared_ptr<Chunk> chunk = Find(BlockOf(run.first)); chunk != nullptr) {
    const absl::MutexLock lock(&chunk->mutex);
    if (Reads(*chunk, run)) {
      return Arrived(*chunk, run);
    }
  }
  const MonotonicTime start = clock_.Now();
  FERRITE_RETURN_IF_ERROR(shower_.Copy(run, buffer));
  cost_.TookSmall(clock_.Now() - start, run.count);
  return absl::OkStatus();
}

absl::Status BlockGatherer::PublishZero(PageRun run, std::span<uint8_t> bytes) {
  const std::shared_ptr<Chunk> chunk = Find(BlockOf(run.first));
  const absl::MutexLock lock(&chunk->mutex);
  if (!chunk->zeroed) {
    std::fill(bytes.begin(), bytes.end(), 0);
  }
  return Arrived(*chunk, run);
}

bool BlockGatherer::Reads(const Chunk& chunk, PageRun run) {
  return chunk.block == BlockOf(run.first) && (chunk.reading & Mask(run)).any();
}

absl::Status BlockGatherer::Arrived(Chunk& chunk, PageRun run) {
  const Pages pages = Mask(run);
  chunk.reading &= ~pages;
  chunk.staged |= pages;
  absl::Status status;
  if (chunk.staged.all() && chunk.shown.none()) {
    status = Move(chunk);
    Close(chunk);
    return status;
  }
  const bool whole = chunk.staged.all();
  status = Show(chunk, whole || chunk.ending ? chunk.staged : Awaited(run));
  if (whole || (chunk.ending && chunk.reading.none())) {
    Close(chunk);
  }
  return status;
}

BlockGatherer::Pages BlockGatherer::Awaited(PageRun run) const {
  Pages awaited;
  for (uint64_t page = run.first; page < run.first + run.count; ++page) {
    awaited.set(page % kBlockPages, states_.Get(page) == PageState::kAwaited);
  }
  return awaited;
}

absl::Status BlockGatherer::Move(Chunk& chunk) {
  const MonotonicTime start = clock_.Now();
  const uint64_t moved = shower_.Move(*chunk.block, chunk.memory.data());
  chunk.cost += clock_.Now() - start;
  if (moved == kBlockPages) {
    return absl::OkStatus();
  }
  // Something was in the way. What changed hands is seen by the guest, the rest is copied.
  if (moved > 0) {
    chunk.shown |= Mask({.first = 0, .count = moved});
  }
  return Show(chunk, chunk.staged);
}

absl::Status BlockGatherer::Show(Chunk& chunk, const Pages& which) {
  const Pages due = which & ~chunk.shown;
  const uint64_t first = *chunk.block * kBlockPages;
  absl::Status status;
  for (uint64_t page = 0; page < kBlockPages;) {
    if (!due[page]) {
      ++page;
      continue;
    }
    uint64_t next = page + 1;
    while (next < kBlockPages && due[next]) {
      ++next;
    }
    const PageRun run{.first = first + page, .count = next - page};
    status.Update(shower_.Copy(run, chunk.memory.data() + page * kPageBytes));
    page = next;
  }
  // Also what could not be shown: it is nobody's again.
  chunk.shown |= due;
  return status;
}

void BlockGatherer::Close(Chunk& chunk) {
  const absl::MutexLock lock(&mutex_);
  const auto it =
      std::find_if(open_.begin(), open_.end(), [&](const OpenChunk& open) { return open.chunk.get() == &chunk; });
  FERRITE_CHECK(it != open_.end());
  // Also of one that a fault broke up: it was made in vain.
  cost_.TookHuge(chunk.cost);
  // What changed hands left a hole.
  chunk.zeroed = chunk.staged.all() && chunk.shown.none();
  chunk.block.reset();
  chunk.ending = false;
  chunk.reading.reset();
  chunk.staged.reset();
  chunk.shown.reset();
  if (free_.size() < kMostFree) {
    free_.push_back(std::move(it->chunk));
  }
  open_.erase(it);
}

absl::Status BlockGatherer::End(uint64_t page) {
  const std::shared_ptr<Chunk> chunk = Find(BlockOf(page));
  if (chunk == nullptr) {
    return absl::OkStatus();
  }
  const absl::MutexLock lock(&chunk->mutex);
  if (chunk->block != BlockOf(page)) {
    return absl::OkStatus();
  }
  absl::Status status = Show(*chunk, chunk->staged);
  if (chunk->reading.none()) {
    Close(*chunk);
  } else {
    // Another channel brings a part of it.
    chunk->ending = true;
  }
  return status;
}

void BlockGatherer::Abandon(PageRun run) {
  if (const std::shared_ptr<Chunk> chunk = Find(BlockOf(run.first)); chunk != nullptr) {
    const absl::MutexLock lock(&chunk->mutex);
    if (Reads(*chunk, run)) {
      chunk->reading &= ~Mask(run);
      chunk->zeroed = false;
      if (chunk->ending && chunk->reading.none()) {
        Close(*chunk);
      }
    }
  }
}

void BlockGatherer::Release() {
  const absl::MutexLock lock(&mutex_);
  free_.clear();
}

absl::StatusOr<bool> BlockGatherer::ShowWanted(uint64_t page) {
  // Whoever is about to bring it shows it at once when it sees this, and else has brought it already.
  if (!states_.Await(page)) {
    return false;
  }
  const std::shared_ptr<Chunk> chunk = Find(BlockOf(page));
  if (chunk == nullptr) {
    return false;
  }
  const absl::MutexLock lock(&chunk->mutex);
  if (chunk->block != BlockOf(page)) {
    return false;
  }
  const uint64_t at = page % kBlockPages;
  if (!chunk->staged[at]) {
    return false;
  }
  Pages one;
  one.set(at);
  FERRITE_RETURN_IF_ERROR(Show(*chunk, one));
  return true;
}

}  // namespace ferrite::migration
