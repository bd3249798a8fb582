#include "vmm/mirror/nbd_blocks.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "vmm/mirror/block_error.h"

namespace ferrite {
namespace {

using migration::BlockIo;
using migration::BlockOperation;
using Kind = BlockOperation::Kind;

// What zeroes are written from, where the server cannot zero. Nobody writes to it.
alignas(4096) std::array<uint8_t, size_t{1} << 20> zero_block;

class NbdBlocks : public BlockIo {
 public:
  NbdBlocks(std::string name, std::unique_ptr<NbdExport> nbd, uint32_t depth)
      : name_(std::move(name)),
        zero_(nbd->facts().zero),
        fast_zero_(nbd->facts().fast_zero),
        pieces_(depth),
        nbd_(std::move(nbd)) {
    free_.reserve(depth);
    done_.reserve(depth);
    for (Piece& piece : pieces_) {
      free_.push_back(&piece);
    }
    for (uint32_t i = 0; i <= depth; ++i) {
      Work& work = works_.emplace_back();
      work.next = std::exchange(unused_, &work);
    }
    nbd_->SetListener([this] { Finish(); });
  }

  absl::string_view name() const override { return name_; }
  uint64_t bytes() const override { return nbd_->facts().bytes; }
  uint32_t block_bytes() const override { return nbd_->facts().block_bytes; }
  uint32_t cluster_bytes() const override { return nbd_->facts().preferred_bytes; }

  void Submit(BlockOperation& operation) override {
    Work& work = Take();
    work.operation = &operation;
    work.begun = 0;
    work.in_flight = 0;
    work.error = 0;
    work.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &work;
    last_ = &work;
  }

  void Kick() override {
    Begin();
    nbd_->Kick();
  }

  absl::StatusOr<Extent> NextExtent(uint64_t offset) override {
    return Extent{.bytes = bytes() - offset, .data = true};
  }

 private:
  // An operation.
  struct Work {
    BlockOperation* operation = nullptr;
    uint64_t begun = 0;  // bytes of it, or 1 of a flush
    uint32_t in_flight = 0;
    int error = 0;  // the first one
    Work* next = nullptr;
  };
  // A part of one.
  struct Piece : NbdCommand {
    Work* work = nullptr;
    uint64_t end = 0;  // with data of zeroes: how far it goes, which may be further than its command
  };

  static uint64_t LengthOf(const BlockOperation& operation) {
    return operation.kind == Kind::kFlush ? 1 : operation.bytes;
  }

  // They are as many as were ever waiting together, and used again: what comes to its end takes no memory.
  Work& Take() {
    if (unused_ == nullptr) {
      return works_.emplace_back();
    }
    return *std::exchange(unused_, unused_->next);
  }

  void Begin();
  void BeginPiece(Piece& piece, Work& work);
  // The command for what is left of a piece of zeroes.
  void PrepareZeroes(Piece& piece);
  // True when there is more to do of it, which was submitted.
  bool GoesOn(Piece& piece);
  void Finish();
  void FinishWork(Work& work);

  const std::string name_;
  bool zero_;
  bool fast_zero_;
  std::deque<Work> works_;
  Work* unused_ = nullptr;
  // Operations that not all pieces of were begun, first in, first out.
  Work* first_ = nullptr;
  Work* last_ = nullptr;
  std::vector<Piece> pieces_;
  std::vector<Piece*> free_;
  std::vector<NbdCommand*> done_;
  size_t done_at_ = 0;  // those before it were seen to
  // The last one, so that it goes, and calls no more, before what it works on.
  const std::unique_ptr<NbdExport> nbd_;
};

void NbdBlocks::Begin() {
  while (first_ != nullptr && !free_.empty()) {
    Work& work = *first_;
    Piece& piece = *free_.back();
    free_.pop_back();
    BeginPiece(piece, work);
    if (work.begun == LengthOf(*work.operation)) {
      first_ = work.next;
    }
  }
}

void NbdBlocks::BeginPiece(Piece& piece, Work& work) {
  const BlockOperation& operation = *work.operation;
  piece.work = &work;
  piece.offset = operation.offset + work.begun;
  piece.bytes = std::min<uint64_t>(operation.bytes - work.begun, nbd_->facts().most_bytes);
  piece.end = piece.offset + piece.bytes;
  piece.data = operation.data == nullptr ? nullptr : operation.data + work.begun;
  ++work.in_flight;
  work.begun += piece.bytes;
  switch (operation.kind) {
    case Kind::kRead:
      piece.kind = NbdCommand::Kind::kRead;
      break;
    case Kind::kWrite:
      piece.kind = NbdCommand::Kind::kWrite;
      break;
    case Kind::kWriteZeroes:
      PrepareZeroes(piece);
      break;
    case Kind::kDiscard:
      piece.kind = NbdCommand::Kind::kTrim;
      break;
    case Kind::kFlush:
      piece.kind = NbdCommand::Kind::kFlush;
      work.begun = 1;
      break;
  }
  nbd_->Submit(piece);
}

void NbdBlocks::PrepareZeroes(Piece& piece) {
  piece.bytes = piece.end - piece.offset;
  if (zero_) {
    piece.kind = fast_zero_ ? NbdCommand::Kind::kFastZero : NbdCommand::Kind::kZero;
    return;
  }
  piece.kind = NbdCommand::Kind::kWrite;
  piece.data = zero_block.data();
  piece.bytes = std::min<uint64_t>(piece.bytes, zero_block.size());
}

bool NbdBlocks::GoesOn(Piece& piece) {
  const Kind kind = piece.work->operation->kind;
  if (kind == Kind::kDiscard && piece.error == ENOTSUP) {
    piece.error = 0;
  }
  if (kind != Kind::kWriteZeroes) {
    return false;
  }
  if (piece.error == ENOTSUP && piece.kind == NbdCommand::Kind::kFastZero) {
    fast_zero_ = false;
  } else if (piece.error == ENOTSUP && piece.kind == NbdCommand::Kind::kZero) {
    zero_ = false;
  } else if (piece.error == 0 && piece.offset + piece.bytes < piece.end) {
    piece.offset += piece.bytes;
  } else {
    return false;
  }
  PrepareZeroes(piece);
  nbd_->Submit(piece);
  return true;
}

void NbdBlocks::Finish() {
  // One whose memory was refused goes on where it was left.
  if (done_at_ == done_.size()) {
    nbd_->TakeDone(done_);
    done_at_ = 0;
  }
  while (done_at_ < done_.size()) {
    auto& piece = static_cast<Piece&>(*done_[done_at_++]);
    if (GoesOn(piece)) {
      continue;
    }
    Work& work = *piece.work;
    free_.push_back(&piece);
    if (work.error == 0) {
      work.error = piece.error;
    }
    --work.in_flight;
    if (work.error != 0 && first_ == &work) {
      // The rest is not tried.
      work.begun = LengthOf(*work.operation);
      first_ = work.next;
    }
    if (work.in_flight == 0 && work.begun == LengthOf(*work.operation)) {
      FinishWork(work);
    }
  }
  Kick();
}

void NbdBlocks::FinishWork(Work& work) {
  BlockOperation& operation = *work.operation;
  operation.result = NbdResult(*nbd_, operation, name_, work.error);
  work.next = std::exchange(unused_, &work);
  operation.done(operation);
}

}  // namespace

absl::Status NbdResult(const NbdExport& nbd, const BlockOperation& operation, absl::string_view name, int error) {
  if (error != kNbdLost) {
    return BlockResult(operation, name, error);
  }
  absl::Status status = absl::UnavailableError("");
  IfThereIsMemory([&] { status = Annotate(nbd.lost(), BlockWords(operation, name)); });
  return status;
}

std::unique_ptr<BlockIo> MakeNbdBlocks(std::string name, std::unique_ptr<NbdExport> nbd, uint32_t depth) {
  return std::make_unique<NbdBlocks>(std::move(name), std::move(nbd), depth);
}

}  // namespace ferrite
