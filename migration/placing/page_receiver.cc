#include "migration/placing/page_receiver.h"

#include <algorithm>
#include <array>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

// Fresh pages are mapped in pieces that are still in the cache, cleared by the kernel, when their bytes are read.
constexpr uint64_t kMappedAtOnce = 64;

}  // namespace

Landscape::Landscape(GuestMemory& memory) : memory_(memory) {
  for (const auto& region : memory.regions()) {
    states_.push_back(std::make_unique<PageStates>(region->bytes() / region->host_page_bytes()));
    placers_.push_back(std::make_unique<Placer>(*region, *states_.back()));
  }
}

uint64_t Landscape::pages() const {
  uint64_t pages = 0;
  for (const auto& region : memory_.regions()) {
    pages += region->pages();
  }
  return pages;
}

uint64_t Landscape::missing() const {
  uint64_t missing = 0;
  for (const auto& states : states_) {
    missing += states->missing();
  }
  return missing;
}

PageReceiver::PageReceiver(Stream& stream, Landscape& landscape, ReceiveFigures& figures)
    : stream_(stream), landscape_(landscape), figures_(figures) {}

PageReceiver::~PageReceiver() {
  if (open_.has_value() && open_->claimed) {
    landscape_.placer(open_->region).Abandon(open_->unit);
  }
}

absl::StatusOr<PageHeader> PageReceiver::ReceiveOne(bool live) {
  std::array<uint8_t, kPageHeaderBytes> bytes;
  FERRITE_RETURN_IF_ERROR(stream_.ReadAll(bytes));
  FERRITE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(bytes));
  FERRITE_RETURN_IF_ERROR(Check(header, live));
  figures_.bytes.fetch_add(kPageHeaderBytes + header.data_bytes(), std::memory_order_relaxed);
  if (header.type != PageFrameType::kRound) {
    const absl::Status status = live ? Show(header) : Land(header);
    if (!status.ok()) {
      return landscape_.placer(header.region).Explain(status);
    }
  }
  return header;
}

absl::Status PageReceiver::Check(const PageHeader& header, bool live) const {
  if (header.type == PageFrameType::kRequest) {
    return absl::InvalidArgumentError("page frame: a request came from the source");
  }
  if (header.type == PageFrameType::kRound) {
    return absl::OkStatus();
  }
  if (header.region >= landscape_.regions()) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: there is no region ", header.region));
  }
  const Placer& placer = landscape_.placer(header.region);
  const PageRun run{.first = header.first_page, .count = header.count};
  if (!placer.Contains(run)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: pages ", run.first, " to ", run.first, "+", run.count,
                                                   " are outside of region ", header.region));
  }
  const bool part = live && header.type == PageFrameType::kPages && placer.pages_per_unit() > kMaxDataPages;
  if (live && !part && !placer.IsWhole(run)) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: pages ", run.first, "+", run.count, " of region ",
                                                   header.region, " are not whole host pages"));
  }
  return absl::OkStatus();
}

absl::Status PageReceiver::Land(const PageHeader& header) {
  Placer& placer = landscape_.placer(header.region);
  const PageRun run{.first = header.first_page, .count = header.count};
  switch (header.type) {
    case PageFrameType::kPages:
      for (PageRun rest = run; rest.count > 0;) {
        const PageRun part{.first = rest.first, .count = std::min(rest.count, kMappedAtOnce)};
        FERRITE_ASSIGN_OR_RETURN(const std::span<uint8_t> landing, placer.Landing(part));
        FERRITE_RETURN_IF_ERROR(stream_.ReadRest(landing));
        placer.Landed(part);
        rest = {.first = rest.first + part.count, .count = rest.count - part.count};
      }
      figures_.pages.fetch_add(run.count, std::memory_order_relaxed);
      return absl::OkStatus();
    case PageFrameType::kZero:
      figures_.zero_pages.fetch_add(run.count, std::memory_order_relaxed);
      return ForPieces(header, [&](PageRun piece) { return placer.LandZero(piece); });
    default:
      return absl::InvalidArgumentError("page frame: a poisoned page before the switchover is not supported");
  }
}

absl::Status PageReceiver::Show(const PageHeader& header) {
  Placer& placer = landscape_.placer(header.region);
  const PageRun all{.first = header.first_page, .count = header.count};
  if (header.type == PageFrameType::kPoison) {
    // Whoever touches such a page gets a SIGBUS, which ends the monitor as long as nothing makes a machine check of it.
    return absl::InvalidArgumentError("page frame: poisoned pages are not supported");
  }
  if (header.type != PageFrameType::kPages) {
    return ForPieces(header, [&](PageRun piece) -> absl::Status {
      FERRITE_ASSIGN_OR_RETURN(const uint64_t news, placer.ShowZero(piece));
      figures_.zero_pages.fetch_add(news, std::memory_order_relaxed);
      figures_.duplicate_pages.fetch_add(piece.count - news, std::memory_order_relaxed);
      return absl::OkStatus();
    });
  }
  if (placer.pages_per_unit() > kMaxDataPages) {
    return ShowPart(header);
  }
  PageRun rest = all;
  while (rest.count > 0) {
    const PageRun run = placer.Claim(rest);
    if (run.count == 0) {
      // Somebody else has it: a page is placed once, whatever the peer sends.
      FERRITE_RETURN_IF_ERROR(Drop(placer.pages_per_unit() * kPageBytes));
      figures_.duplicate_pages.fetch_add(placer.pages_per_unit(), std::memory_order_relaxed);
      rest.first += placer.pages_per_unit();
      rest.count -= placer.pages_per_unit();
      continue;
    }
    // Whatever ends this before the pages are shown, exceptions among it: they are nobody's again.
    absl::Cleanup abandon = [&] { placer.Abandon(run); };
    const absl::StatusOr<std::span<uint8_t>> window =
        run.count > placer.pages_per_unit() ? placer.WideWindow(run) : placer.Window(run);
    FERRITE_RETURN_IF_ERROR(window.status());
    std::span<uint8_t> target = *window;
    if (target.empty()) {
      buffer_.resize(kMaxDataPages * kPageBytes);
      target = std::span<uint8_t>(buffer_).first(run.count * kPageBytes);
      figures_.copied_pages.fetch_add(run.count, std::memory_order_relaxed);
    }
    FERRITE_RETURN_IF_ERROR(stream_.ReadRest(target));
    FERRITE_RETURN_IF_ERROR(placer.Show(run, target.data()));
    std::move(abandon).Cancel();
    figures_.pages.fetch_add(run.count, std::memory_order_relaxed);
    rest.first += run.count;
    rest.count -= run.count;
  }
  return absl::OkStatus();
}

absl::Status PageReceiver::ForPieces(const PageHeader& header, absl::FunctionRef<absl::Status(PageRun)> act) {
  const Placer& placer = landscape_.placer(header.region);
  for (PageRun rest{.first = header.first_page, .count = header.count}; rest.count > 0;) {
    if (stream_.shut_down()) {
      return absl::UnavailableError(absl::StrCat(stream_.peer(), ": the connection was closed here"));
    }
    FERRITE_RETURN_IF_ERROR(act(placer.TakePiece(rest)));
  }
  return absl::OkStatus();
}

absl::Status PageReceiver::ShowPart(const PageHeader& header) {
  Placer& placer = landscape_.placer(header.region);
  const uint64_t per_unit = placer.pages_per_unit();
  if (!open_.has_value()) {
    const PageRun unit{.first = header.first_page, .count = per_unit};
    if (!placer.IsWhole(unit)) {
      return absl::InvalidArgumentError("page frame: a huge page does not start with its first page");
    }
    open_ = {.region = header.region, .unit = unit, .next = unit.first, .claimed = placer.Claim(unit).count > 0};
  }
  if (open_->region != header.region || open_->next != header.first_page ||
      header.count > open_->unit.first + per_unit - open_->next) {
    return absl::InvalidArgumentError("page frame: a huge page is not sent in order");
  }
  const uint64_t bytes = header.count * kPageBytes;
  const absl::Status status =
      open_->claimed
          ? stream_.ReadRest(placer.Window(open_->unit).subspan((open_->next - open_->unit.first) * kPageBytes, bytes))
          : Drop(bytes);
  if (!status.ok()) {
    if (open_->claimed) {
      placer.Abandon(open_->unit);
    }
    open_.reset();
    return status;
  }
  open_->next += header.count;
  if (open_->next < open_->unit.first + per_unit) {
    return absl::OkStatus();
  }
  const OpenUnit done = *open_;
  open_.reset();
  (done.claimed ? figures_.pages : figures_.duplicate_pages).fetch_add(per_unit, std::memory_order_relaxed);
  if (!done.claimed) {
    return absl::OkStatus();
  }
  absl::Cleanup abandon = [&] { placer.Abandon(done.unit); };
  FERRITE_RETURN_IF_ERROR(placer.Show(done.unit, nullptr));
  std::move(abandon).Cancel();
  return absl::OkStatus();
}

absl::Status PageReceiver::Drop(uint64_t bytes) {
  buffer_.resize(kMaxDataPages * kPageBytes);
  while (bytes > 0) {
    const uint64_t now = std::min<uint64_t>(bytes, buffer_.size());
    FERRITE_RETURN_IF_ERROR(stream_.ReadRest(std::span<uint8_t>(buffer_).first(now)));
    bytes -= now;
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
