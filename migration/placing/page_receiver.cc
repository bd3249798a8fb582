#include "migration/placing/page_receiver.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/channel/connection_lost.h"

namespace ferrite::migration {
namespace {

// Fresh pages are mapped in pieces that are still in the cache, cleared by the kernel, when their bytes are read.
constexpr uint64_t kMappedAtOnce = 64;

}  // namespace

PageReceiver::~PageReceiver() {
  // Whoever reads from here on says what is wrong.
  (void)EndGathering();
  if (open_.has_value() && open_->claimed) {
    placement_.placer(open_->region).Abandon(open_->unit);
  }
}

absl::StatusOr<PageHeader> PageReceiver::ReceiveOne(bool live) {
  live_ = live;
  placer_ = nullptr;
  claimed_ = {};
  filling_ = {};
  wrong_.clear();
  gone_.clear();
  // Whatever ends this before the pages are shown, exceptions among it.
  const absl::Cleanup abandon = [this] { AbandonTarget(); };
  absl::StatusOr<PageHeader> header = feed_.Next(*this);
  if (!IsConnectionLost(header.status())) {
    // Only behind a connection that is lost something is received again. Memory that cannot be had is not touched.
    filling_ = {};
  }
  return header.ok() || placer_ == nullptr ? header : placer_->Explain(header.status());
}

void PageReceiver::AbandonTarget() {
  if (claimed_.count > 0) {
    placer_->Abandon(claimed_);
    claimed_ = {};
  }
  if (filling_.count > 0) {
    placer_->CutOff(std::exchange(filling_, {}));
  }
}

absl::Status PageReceiver::Begin(const PageHeader& header) {
  if (header.type == PageFrameType::kRequest) {
    return absl::InvalidArgumentError("page frame: a request came from the source");
  }
  if (header.type == PageFrameType::kRound) {
    figures_.bytes.fetch_add(kPageHeaderBytes, std::memory_order_relaxed);
    return EndGathering();
  }
  if (header.region >= placement_.regions()) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: there is no region ", header.region));
  }
  Placer& placer = placement_.placer(header.region);
  const PageRun run{.first = header.first_page, .count = header.count};
  if (!placer.Contains(run)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: pages ", run.first, " to ", run.first, "+", run.count,
                                                   " are outside of region ", header.region));
  }
  if (live_ && placement_.mirrored(header.region)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: nothing is missing of region ", header.region));
  }
  const bool part = live_ && header.type == PageFrameType::kPages && placer.pages_per_unit() > kMaxDataPages;
  if (live_ && !part && !placer.IsWhole(run)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: pages ", run.first, "+", run.count, " of region ",
                                                   header.region, " are not whole host pages"));
  }
  figures_.bytes.fetch_add(kPageHeaderBytes + header.following_bytes(), std::memory_order_relaxed);
  placer_ = &placer;
  return absl::OkStatus();
}

absl::Status PageReceiver::Gather(uint16_t region, uint64_t page, bool whole) {
  const uint64_t first = page - page % kBlockPages;
  if (gathered_.has_value() && gathered_->region == region && gathered_->first == first) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(EndGathering());
  if (whole) {
    return absl::OkStatus();
  }
  gathered_ = {.region = region, .first = first, .count = kBlockPages};
  placement_.placer(region).BeginGathering(page);
  return absl::OkStatus();
}

absl::Status PageReceiver::EndGathering() {
  const std::optional<PageRange> block = std::exchange(gathered_, std::nullopt);
  return block.has_value() ? placement_.placer(block->region).EndGathering(block->first) : absl::OkStatus();
}

uint8_t* PageReceiver::Buffer(uint64_t pages) {
  if (buffer_ == nullptr) {
    buffer_ = std::make_unique_for_overwrite<uint8_t[]>(kMaxDataPages * kPageBytes);
  }
  figures_.copied_pages.fetch_add(pages, std::memory_order_relaxed);
  return buffer_.get();
}

absl::StatusOr<PageHandler::Target> PageReceiver::NextTarget(const PageRange& rest) {
  Placer& placer = *placer_;
  const PageRun run{.first = rest.first, .count = rest.count};
  if (!live_) {
    const PageRun part{.first = run.first, .count = std::min(run.count, kMappedAtOnce)};
    FERRITE_ASSIGN_OR_RETURN(std::span<uint8_t> bytes, placer.FillTarget(part));
    if (bytes.empty()) {
      bytes = {Buffer(part.count), part.count * kPageBytes};
    } else {
      filling_ = part;
    }
    return Target{.pages = part.count, .bytes = bytes};
  }
  if (placer.pages_per_unit() > kMaxDataPages) {
    if (!open_.has_value()) {
      const PageRun unit{.first = run.first, .count = placer.pages_per_unit()};
      if (!placer.IsWhole(unit)) {
        return absl::InvalidArgumentError("page frame: a huge page does not start with its first page");
      }
      open_ = {.region = rest.region, .unit = unit, .next = unit.first, .claimed = placer.Claim(unit).run.count > 0};
    }
    if (open_->region != rest.region) {
      return absl::InvalidArgumentError("page frame: a huge page is not sent in order");
    }
    return NextPart(placer, run);
  }
  if (showing_ == Showing::kGathered) {
    FERRITE_RETURN_IF_ERROR(Gather(rest.region, run.first, /*whole=*/false));
    return NextLiveTarget(placer,
                          {.first = run.first, .count = std::min(run.count, kBlockPages - run.first % kBlockPages)});
  }
  return NextLiveTarget(placer, run);
}

absl::Status PageReceiver::Wrong(const PageRange& page) {
  if (live_) {
    return absl::DataLossError(absl::StrCat("page frame: page ", page.first, " of region ", page.region,
                                            " came with other bytes than it was sent with"));
  }
  wrong_.push_back(page);
  return absl::OkStatus();
}

absl::Status PageReceiver::Gone(const PageRange& page) {
  if (!live_) {
    // A guest that runs can make it look so. If it is lost, the source says so next.
    return Wrong(page);
  }
  gone_.push_back(page.first);
  return absl::OkStatus();
}

bool PageReceiver::IsGone(PageRun run) const {
  return std::any_of(gone_.begin(), gone_.end(),
                     [&](uint64_t page) { return run.first <= page && page < run.first + run.count; });
}

absl::Status PageReceiver::Filled(const PageRange& range) {
  Placer& placer = *placer_;
  const PageRun run{.first = range.first, .count = range.count};
  if (!live_) {
    filling_ = {};
    FERRITE_RETURN_IF_ERROR(placer.Filled(run, buffer_.get()));
    placement_.doubtful().Settle(range);
    for (const PageRange& page : std::exchange(wrong_, {})) {
      placement_.doubtful().Doubt(page);
    }
    figures_.pages.fetch_add(run.count, std::memory_order_relaxed);
    return absl::OkStatus();
  }
  return placer.pages_per_unit() > kMaxDataPages ? FilledPart(placer, run) : FilledLive(placer, run);
}

absl::StatusOr<PageHandler::Target> PageReceiver::NextLiveTarget(Placer& placer, PageRun rest) {
  const Placer::Claimed claimed = placer.Claim(rest);
  claimed_ = claimed.run;
  if (claimed_.count == 0) {
    // Somebody else has it: a page is placed once, whatever the peer sends.
    return Target{.pages = placer.pages_per_unit(), .bytes = {}};
  }
  FERRITE_ASSIGN_OR_RETURN(std::span<uint8_t> bytes,
                           placer.StageTarget(claimed_, claimed.wanted ? Showing::kAtOnce : showing_));
  if (bytes.empty()) {
    bytes = {Buffer(claimed_.count), claimed_.count * kPageBytes};
  }
  return Target{.pages = claimed_.count, .bytes = bytes};
}

absl::Status PageReceiver::FilledLive(Placer& placer, PageRun run) {
  if (claimed_.count == 0) {
    figures_.duplicate_pages.fetch_add(run.count, std::memory_order_relaxed);
    return absl::OkStatus();
  }
  if (!gone_.empty()) {
    return FilledInParts(placer);
  }
  FERRITE_RETURN_IF_ERROR(placer.Publish(std::exchange(claimed_, {}), buffer_.get()));
  figures_.pages.fetch_add(run.count, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status PageReceiver::FilledInParts(Placer& placer) {
  const uint8_t* bytes = buffer_.get();
  while (claimed_.count > 0) {
    // What is left is abandoned where this fails.
    const PageRun unit{.first = claimed_.first, .count = placer.pages_per_unit()};
    claimed_ = {.first = unit.first + unit.count, .count = claimed_.count - unit.count};
    if (IsGone(unit)) {
      placer.Abandon(unit);
      FERRITE_RETURN_IF_ERROR(placer.PublishPoison(unit).status());
    } else {
      FERRITE_RETURN_IF_ERROR(placer.Publish(unit, bytes));
      figures_.pages.fetch_add(unit.count, std::memory_order_relaxed);
    }
    bytes = bytes != nullptr ? bytes + unit.count * kPageBytes : nullptr;
  }
  gone_.clear();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PageReceiver::Zero(const PageRange& range) {
  PageRun rest{.first = range.first, .count = range.count};
  PageRun piece = placer_->TakePiece(rest);
  if (!live_) {
    figures_.zero_pages.fetch_add(piece.count, std::memory_order_relaxed);
    FERRITE_RETURN_IF_ERROR(placer_->FillZero(piece));
    placement_.doubtful().Settle({.region = range.region, .first = piece.first, .count = piece.count});
    return piece.count;
  }
  if (showing_ == Showing::kGathered) {
    const uint64_t in_block = kBlockPages - piece.first % kBlockPages;
    const uint64_t whole = in_block == kBlockPages ? piece.count / kBlockPages * kBlockPages : 0;
    FERRITE_RETURN_IF_ERROR(Gather(range.region, piece.first, whole > 0));
    piece.count = whole > 0 ? whole : std::min(piece.count, in_block);
  }
  FERRITE_ASSIGN_OR_RETURN(const uint64_t news, placer_->PublishZero(piece, showing_));
  figures_.zero_pages.fetch_add(news, std::memory_order_relaxed);
  figures_.duplicate_pages.fetch_add(piece.count - news, std::memory_order_relaxed);
  return piece.count;
}

absl::StatusOr<uint64_t> PageReceiver::Lost(const PageRange& range) {
  PageRun rest{.first = range.first, .count = range.count};
  const PageRun piece = placer_->TakePiece(rest);
  if (!live_) {
    FERRITE_RETURN_IF_ERROR(placer_->Lose(piece));
    placement_.doubtful().Settle({.region = range.region, .first = piece.first, .count = piece.count});
    return piece.count;
  }
  if (open_.has_value() && open_->region == range.region && piece.first <= open_->unit.first &&
      open_->unit.first < piece.first + piece.count) {
    // The rest of it was lost when its first frames had left.
    const OpenUnit open = *std::exchange(open_, std::nullopt);
    if (open.claimed) {
      placer_->Abandon(open.unit);
    }
  }
  FERRITE_ASSIGN_OR_RETURN(const uint64_t news, placer_->PublishPoison(piece));
  figures_.duplicate_pages.fetch_add(piece.count - news, std::memory_order_relaxed);
  return piece.count;
}

}  // namespace ferrite::migration
