#include "migration/channel/pair/pair_pages.h"

#include <cstring>
#include <limits>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"

namespace ferrite::migration {
namespace {

// Of an end that can always be put in: the other one asks once for each page that it misses, and waits for nobody.
constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

absl::Status Closed(const std::string& peer) {
  return absl::UnavailableError(absl::StrCat(peer, ": the connection was closed"));
}

}  // namespace

PairPageSink::PairPageSink(std::shared_ptr<FramePipe> frames, std::shared_ptr<RequestPipe> requests, std::string peer)
    : out_(std::move(frames)), requests_(std::move(requests)), peer_(std::move(peer)) {
  frames_.reserve(kMostFrames);
}

PairPageSink::~PairPageSink() {
  out_->Close();
  requests_->CloseAndDrop();
}

absl::Status PairPageSink::Add(const PageHeader& header, std::span<const uint8_t> bytes) {
  if (full()) {
    FERRITE_RETURN_IF_ERROR(Flush());
  }
  frames_.push_back(
      {.header = header, .data = bytes.data(), .find = [this](const uint8_t* address) { return Find(address); }});
  gathered_ += kPageHeaderBytes + bytes.size();
  return absl::OkStatus();
}

absl::Status PairPageSink::Flush() {
  bool lost = false;
  bool is_read = false;
  for (const PairFrame& frame : frames_) {
    lost = lost || out_->PutIn(frame, kMostFrames, absl::InfiniteDuration()) != FramePipe::Put::kDone;
    is_read = is_read || frame.data != nullptr;
  }
  frames_.clear();
  gathered_ = 0;
  // What has no bytes may lie there: nobody may come for it any more.
  lost = (is_read && !out_->AwaitEmpty()) || lost;
  return lost ? Closed(peer_) : absl::OkStatus();
}

void PairPageSink::Shutdown() {
  out_->CloseAndDrop();
  requests_->CloseAndDrop();
}

absl::StatusOr<PageRange> PairPageSink::NextRequest() {
  const std::optional<PageRange> request = requests_->Take();
  if (!request.has_value()) {
    return absl::OutOfRangeError(absl::StrCat(peer_, " closed the connection"));
  }
  requests_->Done();
  return *request;
}

PairPageFeed::PairPageFeed(std::shared_ptr<FramePipe> frames, std::shared_ptr<RequestPipe> requests, std::string peer)
    : in_(std::move(frames)), requests_(std::move(requests)), peer_(std::move(peer)) {}

PairPageFeed::~PairPageFeed() {
  in_->CloseAndDrop();
  requests_->Close();
}

absl::StatusOr<PageHeader> PairPageFeed::Next(PageHandler& handler) {
  const std::optional<PairFrame> frame = in_->Take();
  if (!frame.has_value()) {
    return absl::OutOfRangeError(absl::StrCat(peer_, " closed the connection"));
  }
  const absl::Cleanup done = [this] { in_->Done(); };
  FERRITE_RETURN_IF_ERROR(handler.Begin(frame->header));
  FERRITE_RETURN_IF_ERROR(Handle(handler, *frame));
  return frame->header;
}

absl::Status PairPageFeed::Handle(PageHandler& handler, const PairFrame& frame) {
  const auto over = [this] { return in_->dropped() ? Closed(peer_) : absl::OkStatus(); };
  const PageHeader& header = frame.header;
  if (header.type == PageFrameType::kRound) {
    return absl::OkStatus();
  }
  if (header.type != PageFrameType::kPages) {
    return HandlePieces(handler, header, over);
  }
  const uint8_t* data = frame.data;
  PageRange rest{.region = header.region, .first = header.first_page, .count = header.count};
  while (rest.count > 0) {
    FERRITE_RETURN_IF_ERROR(over());
    FERRITE_ASSIGN_OR_RETURN(const PageHandler::Target target, handler.NextTarget(rest));
    const PageRange run{.region = rest.region, .first = rest.first, .count = target.pages};
    FERRITE_RETURN_IF_ERROR(Copy(handler, run, data, target.bytes, frame.find));
    FERRITE_RETURN_IF_ERROR(handler.Filled(run));
    data += target.pages * kPageBytes;
    rest.first += target.pages;
    rest.count -= target.pages;
  }
  return absl::OkStatus();
}

absl::Status PairPageFeed::Copy(PageHandler& handler, const PageRange& run, const uint8_t* data,
                                std::span<uint8_t> into, const PageSink::Finder& find) {
  const auto copy = [&](uint64_t offset, uint64_t bytes) {
    return TouchMemory([&] { std::memcpy(into.data() + offset, data + offset, bytes); });
  };
  if (into.empty() || !copy(0, into.size()).has_value()) {
    return absl::OkStatus();
  }
  for (uint64_t i = 0; i < run.count; ++i) {
    const std::optional<uintptr_t> hit = copy(i * kPageBytes, kPageBytes);
    if (!hit.has_value()) {
      continue;
    }
    const uint8_t* const page = data + i * kPageBytes;
    if (*hit - reinterpret_cast<uintptr_t>(page) >= kPageBytes) {
      return absl::ResourceExhaustedError("memory of the destination cannot be had");
    }
    FERRITE_RETURN_IF_ERROR(find(page));
    FERRITE_RETURN_IF_ERROR(handler.Gone({.region = run.region, .first = run.first + i, .count = 1}));
  }
  return absl::OkStatus();
}

void PairPageFeed::Shutdown() {
  in_->CloseAndDrop();
  requests_->Close();
}

absl::Status PairPageFeed::Ask(std::span<const PageRange> runs) {
  for (const PageRange& run : runs) {
    if (requests_->PutIn(run, kNoLimit, absl::InfiniteDuration()) != RequestPipe::Put::kDone) {
      return Closed(peer_);
    }
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
