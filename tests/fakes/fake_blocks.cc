#include "tests/fakes/fake_blocks.h"

#include <sched.h>

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "memory/guest_address.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Its user's accesses race with the move's by nature, as a guest's do.
__attribute__((no_sanitize("thread"))) uint64_t Load(const uint64_t* word) {
  return *const_cast<const volatile uint64_t*>(word);
}
__attribute__((no_sanitize("thread"))) void Store(uint64_t* word, uint64_t value) {
  *const_cast<volatile uint64_t*>(word) = value;
}

}  // namespace

FakeBlocks::FakeBlocks() : blocks_(kBlocks), left_(kBlocks) {}

absl::Status FakeBlocks::Fail(BlocksFailure where) const {
  return failure == where ? absl::InternalError("blocks: injected failure") : absl::OkStatus();
}

std::span<uint8_t> FakeBlocks::At(PageRun run) {
  return {reinterpret_cast<uint8_t*>(blocks_.data()) + run.first * kPageBytes, run.count * kPageBytes};
}

void FakeBlocks::Run() {
  end_ = false;
  thread_ = StartOrDie("fake-blocks", [this] {
    for (uint64_t visit = visits_ + 1; !end_; ++visit) {
      if (discarding_) {
        Discard();
      }
      Visit(visit);
      if (visit % 16 == 0) {
        sched_yield();
      }
    }
  });
}

void FakeBlocks::Pause() {
  End();
  thread_.Join();
}

void FakeBlocks::End() {
  const TimedMutexLock lock(&mutex_);
  end_ = true;
}

void FakeBlocks::Visit(uint64_t visit) {
  const uint64_t block = Mix(visit) % kWorkedOn;
  if (!Await(block)) {
    return;
  }
  uint64_t* const first = &blocks_[block].first;
  uint64_t* const last = &blocks_[block].last;
  if (Load(first) != left_[block] || Load(last) != left_[block]) {
    ++errors_;
  }
  const uint64_t leaves = left_[block] + visit;
  Store(first, leaves);
  Store(last, leaves);
  left_[block] = leaves;
  dirty_.Set(block);
  AwaitDelivery();
  visits_ = visit;
}

void FakeBlocks::Discard() {
  for (uint64_t block = 0; block < discards; ++block) {
    Store(&blocks_[block].first, 0);
    Store(&blocks_[block].last, 0);
    left_[block] = 0;
  }
  dirty_.SetRange(0, discards);
  discarding_ = false;
}

void FakeBlocks::AwaitDelivery() {
  // Behind that look at the latest.
  const uint64_t look = looks_ + 1;
  const uint64_t let_go = let_go_;
  const auto is_over = [&] { return end_ || !blocking_ || delivered_ >= look || let_go_ != let_go; };
  if (!is_over()) {
    ++held_;
    const TimedMutexLock lock(&mutex_);
    held_since_ = MonotonicTime::Now();
    mutex_.Await(absl::Condition(&is_over));
    held_since_ = MonotonicTime::InfiniteFuture();
  }
}

bool FakeBlocks::Await(uint64_t block) {
  RequestQueue* const requests = requests_;
  if (requests == nullptr || states_.Get(block) == PageState::kPresent) {
    return true;
  }
  ++waits_;
  if (states_.Request(block)) {
    requests->Put({.region = region_, .first = block, .count = 1});
  }
  const TimedMutexLock lock(&mutex_);
  const auto is_over = [&] { return end_ || states_.Get(block) == PageState::kPresent; };
  mutex_.Await(absl::Condition(&is_over));
  return !end_;
}

void FakeBlocks::AwaitVisits(uint64_t count) const {
  for (const uint64_t before = visits_; visits_ < before + count;) {
    sched_yield();
  }
}

uint64_t FakeBlocks::CheckAll() const {
  uint64_t wrong = 0;
  for (uint64_t block = 0; block < kBlocks; ++block) {
    wrong += blocks_[block].first != left_[block] || blocks_[block].last != left_[block] ? 1 : 0;
  }
  return wrong;
}

std::vector<MachineSpec::Region> FakeBlocks::Outgoing::regions() const {
  if (declined) {
    return {};
  }
  return {{.kind = RegionKind::kDisk,
           .name = "blocks",
           .bytes = kBlocks * kPageBytes + blocks_.odd_bytes,
           .page_bytes = kPageBytes}};
}

absl::Status FakeBlocks::Outgoing::StartTracking() {
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kStartTracking));
  blocks_.dirty_.ClearAll();
  tracking = true;
  return absl::OkStatus();
}

absl::Status FakeBlocks::Outgoing::CollectDirty(size_t, PageBitmap& dirty) {
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kCollectDirty));
  ++blocks_.looks_;
  blocks_.dirty_.TakeInto(dirty);
  if (blocks_.restless && blocks_.running() && !blocks_.blocking_) {
    dirty.SetRange(0, kBlocks);
  }
  return absl::OkStatus();
}

absl::Status FakeBlocks::Outgoing::AddSkipped(size_t, PageBitmap& skipped) {
  if (blocks_.discards == 0) {
    return absl::OkStatus();
  }
  blocks_.discarding_ = true;
  while (blocks_.discarding_) {
    sched_yield();
  }
  skipped.SetRange(0, blocks_.discards);
  skipped.SetRange(kWorkedOn, kBlocks - kWorkedOn);
  return absl::OkStatus();
}

bool FakeBlocks::Outgoing::SetBlocking(bool on) {
  blocks_.blocking_ = on && blocks_.can_block;
  blocks_.let_go_ += on ? 0 : 1;
  blocks_.Wake();
  return blocks_.can_block;
}

void FakeBlocks::Outgoing::Delivered() {
  ++deliveries;
  blocks_.delivered_ = blocks_.looks_.load();
  blocks_.Wake();
}

MonotonicTime FakeBlocks::Outgoing::LetGo(MonotonicTime since) {
  const TimedMutexLock lock(&blocks_.mutex_);
  if (blocks_.held_since_ > since) {
    return blocks_.held_since_;
  }
  ++blocks_.let_go_;
  return MonotonicTime::InfiniteFuture();
}

absl::Status FakeBlocks::Outgoing::Send(PageSender& sender, size_t, const PageRange& run, uint64_t pages_per_unit) {
  ++sends;
  if (blocks_.on_send) {
    blocks_.on_send();
  }
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kSend));
  return sender.SendRead(run, pages_per_unit, [this](uint64_t first, std::span<uint8_t> into) {
    // Word by word, as a disk's sectors are read: its user may write meanwhile.
    const uint64_t* const from = &blocks_.blocks_[first].first;
    auto* const to = reinterpret_cast<uint64_t*>(into.data());
    for (size_t word = 0; word < into.size() / sizeof(uint64_t); ++word) {
      to[word] = Load(from + word);
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::span<uint8_t>> FakeBlocks::BlockPlacer::FillTarget(PageRun run) {
  return std::span<uint8_t>(reinterpret_cast<uint8_t*>(&staged_[run.first]), run.count * kPageBytes);
}

absl::Status FakeBlocks::BlockPlacer::Put(PageRun run, const uint8_t*) {
  if (blocks_.on_fill) {
    blocks_.on_fill();
  }
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kFill));
  std::copy_n(&staged_[run.first], run.count, &blocks_.blocks_[run.first]);
  blocks_.filled_ += run.count;
  blocks_.flushed_ = false;
  return absl::OkStatus();
}

absl::Status FakeBlocks::BlockPlacer::PutZero(PageRun run) {
  if (blocks_.on_zero) {
    blocks_.on_zero();
  }
  std::fill_n(&blocks_.blocks_[run.first], run.count, Block());
  SetPresent(run);
  return absl::OkStatus();
}

absl::Status FakeBlocks::BlockPlacer::Publish(PageRun run, const uint8_t*) {
  if (absl::Status status = blocks_.Fail(BlocksFailure::kPublish); !status.ok()) {
    Abandon(run);
    return status;
  }
  Finish(run);
  blocks_.Wake();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> FakeBlocks::BlockPlacer::PublishZero(PageRun run, Showing) {
  uint64_t news = 0;
  for (uint64_t block = run.first; block < run.first + run.count; ++block) {
    if (states().Claim(block)) {
      const std::span<uint8_t> bytes = blocks_.At({.first = block, .count = 1});
      std::memset(bytes.data(), 0, bytes.size());
      states().Finish(block);
      ++news;
    }
  }
  blocks_.Wake();
  return news;
}

absl::Status FakeBlocks::BlockPlacer::Drop(PageRun run) {
  const std::span<uint8_t> bytes = blocks_.At(run);
  std::memset(bytes.data(), 0xee, bytes.size());
  return absl::OkStatus();
}

absl::Status FakeBlocks::Incoming::Check(std::span<const MachineSpec::Region> theirs) const {
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kCheck));
  return theirs[0].kind == RegionKind::kDisk && theirs[0].bytes == kBlocks * kPageBytes
             ? absl::OkStatus()
             : absl::FailedPreconditionError("these are no such blocks");
}

absl::Status FakeBlocks::Incoming::Flush() {
  ++flushes;
  if (blocks_.on_flush) {
    blocks_.on_flush();
  }
  blocks_.flushed_ = true;
  return blocks_.Fail(BlocksFailure::kFlush);
}

absl::Status FakeBlocks::Incoming::Prepare() {
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kPrepare));
  return blocks_.placer_.Discard({.first = 0, .count = kBlocks});
}

absl::Status FakeBlocks::Incoming::Arm(RequestQueue& requests, uint16_t first_region) {
  FERRITE_RETURN_IF_ERROR(blocks_.Fail(BlocksFailure::kArm));
  blocks_.region_ = first_region;
  blocks_.requests_ = &requests;
  return absl::OkStatus();
}

absl::Status FakeBlocks::Incoming::Settle() {
  BlocksFailure once = BlocksFailure::kSettle;
  return blocks_.failure.compare_exchange_strong(once, BlocksFailure::kNone)
             ? absl::InternalError("blocks: injected failure")
             : absl::OkStatus();
}

absl::Status FakeBlocks::Incoming::WakeWaiting() {
  blocks_.Wake();
  return absl::OkStatus();
}

}  // namespace ferrite::migration
