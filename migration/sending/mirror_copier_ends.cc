// What comes of operations that ended.
#include <algorithm>
#include <utility>

#include "migration/sending/mirror_copier.h"
#include "migration/sending/zero_page.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPage = 4096;

bool IsZero(std::span<const uint8_t> data) {
  while (data.size() >= kPage) {
    if (!IsZeroPage(data.data())) {
      return false;
    }
    data = data.subspan(kPage);
  }
  return std::all_of(data.begin(), data.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

uint64_t MirrorCopier::TakeUncharged() { return std::exchange(uncharged_, 0); }

void MirrorCopier::TakeEnds(Owner& owner, MonotonicTime now) {
  // None of them ends anew while it is looked at. What a throw left comes first.
  ends_taken_.insert(ends_taken_.end(), ends_.begin(), ends_.end());
  ends_.clear();
  while (!ends_taken_.empty()) {
    Operation& operation = *ends_taken_.front();
    ends_taken_.erase(ends_taken_.begin());
    TakeEnd(operation, owner, now);
  }
}

void MirrorCopier::TakeEnd(Operation& operation, Owner& owner, MonotonicTime now) {
  const Side side = operation.step == Step::kReading ? Side::kSource : Side::kTarget;
  if (!operation.io.result.ok()) {
    const bool is_flush = operation.step == Step::kFlushing;
    if (!is_flush) {
      chunks_.Failed(operation.run);
    }
    Release(operation);
    if (is_flush) {
      owner.FlushFailed(operation.io.result);
    } else {
      owner.Failed(side, operation.io.result);
    }
    return;
  }
  owner.Succeeded(side);
  switch (operation.step) {
    case Step::kFree:
      break;
    case Step::kFlushing:
      Release(operation);
      owner.Flushed();
      return;
    case Step::kReading:
      break;
    case Step::kWriting:
    case Step::kZeroing:
      operation.at += operation.io.bytes;
      totals_.copied += operation.io.bytes;
      if (operation.step == Step::kZeroing) {
        totals_.zero += operation.io.bytes;
      }
      if (!operation.run.fresh && !operation.run.alone) {
        totals_.again += operation.io.bytes;
      }
      if (operation.is_paced && operation.at == operation.bytes) {
        window_.Note(operation.bytes, now - operation.started_at);
      }
      break;
  }
  WriteOn(operation, owner);
}

MirrorCopier::Piece MirrorCopier::NextPiece(const Operation& operation) const {
  const std::span<const uint8_t> data = operation.memory.first(operation.bytes);
  if (operation.at == 0 && IsZero(data)) {
    return {operation.bytes, true};
  }
  Piece piece;
  for (uint64_t at = operation.at; at < operation.bytes; at += zero_unit_ - (operation.offset + at) % zero_unit_) {
    const uint64_t offset = operation.offset + at;
    const uint64_t unit = std::min(zero_unit_ - offset % zero_unit_, operation.bytes - at);
    // A part of a unit at the edge of what was read counts as data, but for the end of the disk.
    const bool is_whole = offset % zero_unit_ == 0 && (unit == zero_unit_ || offset + unit == chunks_.bytes());
    const bool is_zero = is_whole && IsZero(data.subspan(at, unit));
    if (piece.bytes != 0 && is_zero != piece.is_zero) {
      break;
    }
    piece.is_zero = is_zero;
    piece.bytes += unit;
  }
  return piece;
}

void MirrorCopier::WriteOn(Operation& operation, Owner& owner) {
  while (operation.at < operation.bytes) {
    if (!owner.goes_on()) {
      ChunkRun run = operation.run;
      // Some of it was written.
      run.fresh = run.fresh && operation.step == Step::kReading;
      chunks_.GiveBack(run);
      Release(operation);
      return;
    }
    const Piece piece = NextPiece(operation);
    if (piece.is_zero && operation.is_charged) {
      uncharged_ += piece.bytes;
    }
    if (!piece.is_zero || !target_is_zero_ || !operation.run.fresh) {
      Submit(target_, operation, piece.is_zero ? Step::kZeroing : Step::kWriting,
             piece.is_zero ? BlockOperation::Kind::kWriteZeroes : BlockOperation::Kind::kWrite,
             operation.offset + operation.at, piece.bytes,
             piece.is_zero ? nullptr : operation.memory.data() + operation.at);
      return;
    }
    operation.at += piece.bytes;
  }
  if (operation.is_alone) {
    chunks_.Done(operation.run);
    const uint64_t ticket = operation.ticket;
    Release(operation);
    owner.CopiedAlone(ticket);
    return;
  }
  // Nothing was written of it: all of it is zero, as the target was.
  const ChunkRun run = operation.run;
  if (run.fresh && operation.step == Step::kReading) {
    chunks_.Spared(run);
  } else {
    chunks_.Done(run);
  }
  const uint64_t ticket = operation.ticket;
  Release(operation);
  owner.Copied(run, ticket);
}

}  // namespace ferrite::migration
