#include "migration/sending/mirror_copier.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
// Of one operation, where the buffer and the number of operations leave the choice. Less costs calls, more costs
// latency of those that wait for the buffer.
constexpr uint64_t kLeastData = 256 * kKiB;
constexpr uint64_t kMostData = 4 * kMiB;
// So many operations of data have room in the buffer at least.
constexpr uint64_t kShares = 4;
// Some targets write zeroes as they write data: who cancels waits for it.
constexpr uint64_t kMostZeroes = 128 * kMiB;
// Less is written as data that lies beside it.
constexpr uint64_t kLeastZeroes = 64 * kKiB;

}  // namespace

absl::StatusOr<std::unique_ptr<MirrorCopier>> MirrorCopier::Create(BlockIo& source, BlockIo& target,
                                                                   DirtyChunks& chunks, const Shape& shape,
                                                                   std::function<void()> ended) {
  const uint64_t granularity = chunks.granularity();
  FERRITE_ASSIGN_OR_RETURN(MirrorBuffer buffer,
                           MirrorBuffer::Create(shape.buffer_bytes, std::min(granularity, kLeastZeroes)));
  const uint64_t share = buffer.bytes() / kShares;
  uint64_t most = std::clamp(buffer.bytes() / shape.in_flight, std::min(kLeastData, share), std::min(kMostData, share));
  // Whole clusters, or whole chunks.
  const uint64_t unit = granularity * chunks.cluster_chunks();
  most = std::max(most / unit, uint64_t{1}) * unit;
  return std::unique_ptr<MirrorCopier>(
      new MirrorCopier(source, target, chunks, shape, std::move(buffer), most, std::move(ended)));
}

MirrorCopier::MirrorCopier(BlockIo& source, BlockIo& target, DirtyChunks& chunks, const Shape& shape,
                           MirrorBuffer buffer, uint64_t most_bytes, std::function<void()> ended)
    : source_(source),
      target_(target),
      chunks_(chunks),
      target_is_zero_(shape.target_is_zero),
      least_bytes_(chunks.granularity() * chunks.cluster_chunks()),
      most_bytes_(most_bytes),
      zero_unit_(std::max(least_bytes_, kLeastZeroes)),
      buffer_(std::move(buffer)),
      ended_(std::move(ended)),
      operations_(shape.in_flight),
      window_(most_bytes, buffer_.bytes()) {
  ends_.reserve(operations_.size());
  ends_taken_.reserve(operations_.size());
  for (Operation& operation : operations_) {
    operation.io.done = [this, &operation](BlockOperation&) {
      --at_io_;
      ends_.push_back(&operation);
      ended_();
    };
  }
}

MirrorCopier::Operation* MirrorCopier::FindFree(uint32_t spare) {
  const auto operations = static_cast<uint32_t>(operations_.size());
  if (busy_ + std::min(spare, operations - 1) >= operations) {
    return nullptr;
  }
  const auto found = std::find_if(operations_.begin(), operations_.end(),
                                  [](const Operation& operation) { return operation.step == Step::kFree; });
  return found == operations_.end() ? nullptr : &*found;
}

void MirrorCopier::Release(Operation& operation) {
  buffer_.Free(operation.memory);
  operation.memory = {};
  if (std::exchange(operation.is_paced, false)) {
    paced_bytes_ -= operation.bytes;
  }
  operation.step = Step::kFree;
  --busy_;
}

void MirrorCopier::Submit(BlockIo& io, Operation& operation, Step step, BlockOperation::Kind kind, uint64_t offset,
                          uint64_t bytes, uint8_t* data) {
  if (operation.step == Step::kFree) {
    ++busy_;
  }
  operation.step = step;
  operation.io.kind = kind;
  operation.io.offset = offset;
  operation.io.bytes = bytes;
  operation.io.data = data;
  operation.io.result = absl::OkStatus();
  ++at_io_;
  (&io == &source_ ? to_kick_source_ : to_kick_target_) = true;
  io.Submit(operation.io);
}

void MirrorCopier::Kick() {
  if (std::exchange(to_kick_source_, false)) {
    source_.Kick();
  }
  if (std::exchange(to_kick_target_, false)) {
    target_.Kick();
  }
}

uint64_t MirrorCopier::HoleEnd(uint64_t offset) {
  if (offset >= data_begin_ && offset < data_end_) {
    return 0;
  }
  const absl::StatusOr<BlockIo::Extent> extent = source_.NextExtent(offset);
  // Reading it will show what is wrong.
  if (!extent.ok() || extent->bytes == 0 || extent->data) {
    data_begin_ = offset;
    data_end_ = offset + (extent.ok() && extent->bytes != 0 ? std::min(extent->bytes, chunks_.bytes() - offset)
                                                            : chunks_.bytes() - offset);
    return 0;
  }
  return offset + std::min(extent->bytes, chunks_.bytes() - offset);
}

MirrorCopier::Started MirrorCopier::StartDirty(const Wish& wish) {
  const std::optional<uint64_t> first = chunks_.FindDirty(wish.from, wish.end);
  if (!first.has_value()) {
    return {Started::What::kNothing};
  }
  Operation* const operation = FindFree(wish.spare_operations);
  if (operation == nullptr) {
    return {Started::What::kNoRoom};
  }
  const uint64_t granularity = chunks_.granularity();
  const uint64_t offset = *first * granularity;
  const uint64_t hole_end = HoleEnd(offset);
  uint64_t data_from = offset;
  if (hole_end >= offset + chunks_.BytesOf(*first, 1)) {
    const Started started = StartHole(*operation, wish, *first, hole_end);
    if (started.what != Started::What::kNothing) {
      return started;
    }
  } else if (hole_end != 0) {
    data_from = hole_end;
    (void)HoleEnd(data_from);
  }
  if (wish.is_paced && !window_.TakesMore(paced_bytes_, wish.guest_writes)) {
    return {Started::What::kNoRoom};
  }
  // No further than the data goes, but for the chunk that has its end.
  uint64_t most = std::min(wish.most_bytes, most_bytes_);
  if (data_from >= data_begin_ && data_from < data_end_) {
    most = std::min(most, data_end_ - offset);
  }
  most = std::max((most + granularity - 1) / granularity * granularity, least_bytes_);
  const uint64_t spare = std::min(wish.spare_bytes, buffer_.bytes() - least_bytes_);
  std::span<uint8_t> memory = buffer_.Allocate(least_bytes_, most, spare);
  if (memory.empty()) {
    return {Started::What::kNoRoom};
  }
  operation->run = chunks_.Take(*first, wish.end, std::min<uint64_t>(memory.size(), most) / granularity);
  FERRITE_CHECK(operation->run.count > 0);
  operation->offset = operation->run.first * granularity;
  operation->bytes = chunks_.BytesOf(operation->run.first, operation->run.count);
  buffer_.Shrink(memory, operation->bytes);
  operation->memory = memory;
  operation->at = 0;
  operation->ticket = wish.last_ticket;
  operation->is_alone = false;
  operation->is_charged = wish.is_charged;
  operation->is_paced = wish.is_paced;
  if (wish.is_paced) {
    operation->started_at = wish.now;
    paced_bytes_ += operation->bytes;
    window_.Began(operation->bytes);
  }
  Submit(source_, *operation, Step::kReading, BlockOperation::Kind::kRead, operation->offset, operation->bytes,
         memory.data());
  return {Started::What::kRead, operation->run.end(), operation->bytes};
}

MirrorCopier::Started MirrorCopier::StartHole(Operation& operation, const Wish& wish, uint64_t first,
                                              uint64_t hole_end) {
  const uint64_t granularity = chunks_.granularity();
  // Chunks that lie in it whole.
  const uint64_t end = hole_end == chunks_.bytes() ? chunks_.chunks() : hole_end / granularity;
  const uint64_t most =
      target_is_zero_ ? end - first : std::min(end - first, std::max(kMostZeroes / granularity, uint64_t{1}));
  const ChunkRun run = chunks_.Take(first, std::min(wish.end, end), most);
  // What was written before it was taken is data by now; what was written since is dirty.
  const uint64_t offset = run.first * granularity;
  const uint64_t bytes = chunks_.BytesOf(run.first, run.count);
  if (HoleEnd(offset) < offset + bytes) {
    chunks_.GiveBack(run);
    return {Started::What::kNothing};
  }
  if (run.fresh && target_is_zero_) {
    chunks_.Spared(run);
    return {Started::What::kSpared, run.end()};
  }
  operation.run = run;
  operation.offset = offset;
  operation.bytes = bytes;
  operation.at = 0;
  operation.ticket = wish.last_ticket;
  operation.is_alone = false;
  operation.is_charged = false;
  Submit(target_, operation, Step::kZeroing, BlockOperation::Kind::kWriteZeroes, offset, bytes, nullptr);
  return {Started::What::kZeroes, run.end()};
}

bool MirrorCopier::StartAlone(const ChunkRun& run, uint64_t offset, uint64_t bytes, uint64_t ticket) {
  Operation* const operation = FindFree(0);
  if (operation == nullptr) {
    return false;
  }
  const std::span<uint8_t> memory = buffer_.Allocate(bytes, bytes, 0);
  if (memory.empty()) {
    return false;
  }
  operation->run = run;
  operation->offset = offset;
  operation->bytes = bytes;
  operation->at = 0;
  operation->memory = memory;
  operation->ticket = ticket;
  operation->is_alone = true;
  operation->is_charged = false;
  Submit(source_, *operation, Step::kReading, BlockOperation::Kind::kRead, offset, bytes, memory.data());
  return true;
}

bool MirrorCopier::StartFlush() {
  Operation* const operation = FindFree(0);
  if (operation == nullptr) {
    return false;
  }
  Submit(target_, *operation, Step::kFlushing, BlockOperation::Kind::kFlush, 0, 0, nullptr);
  return true;
}

}  // namespace ferrite::migration
