#include "migration/channel/socket/stream_pages.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"
#include "migration/protocol/lost_filler.h"
#include "migration/protocol/page_sums.h"

namespace ferrite::migration {
namespace {

constexpr size_t kDroppedAtOnce = kMaxDataPages * kPageBytes;

// An address in the first page of `bytes` that cannot be read, or null.
const uint8_t* FirstUnreadable(std::span<const uint8_t> bytes) {
  const std::optional<uintptr_t> hit = TouchMemory([&] {
    for (size_t at = 0; at < bytes.size(); at += kPageBytes - reinterpret_cast<uintptr_t>(&bytes[at]) % kPageBytes) {
      (void)*static_cast<const volatile uint8_t*>(&bytes[at]);
    }
  });
  return reinterpret_cast<const uint8_t*>(hit.value_or(0));
}

}  // namespace

StreamPageSink::StreamPageSink(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {
  pieces_.reserve(3 * kMostFrames);
}

absl::Status StreamPageSink::MakeRoom() {
  if (full()) {
    FERRITE_RETURN_IF_ERROR(Flush());
  }
  while (on_way_.size() >= kMostOnWayFrames) {
    FERRITE_RETURN_IF_ERROR(AwaitWord());
  }
  return absl::OkStatus();
}

absl::Status StreamPageSink::Add(const PageHeader& header, std::span<const uint8_t> bytes) {
  FERRITE_RETURN_IF_ERROR(MakeRoom());
  const std::span<uint32_t> sums = std::span(sums_).subspan(pages_, bytes.size() / kPageBytes);
  if (const std::optional<uintptr_t> hit = TouchMemory([&] { SumPages(bytes, sums); }); hit.has_value()) {
    FERRITE_RETURN_IF_ERROR(Find(reinterpret_cast<const uint8_t*>(*hit)));
    return absl::DataLossError(absl::StrCat("a page of region ", header.region, " is lost"));
  }
  PutHeader(header);
  if (!bytes.empty()) {
    pages_ += sums.size();
    pieces_.push_back({.iov_base = sums.data(), .iov_len = sums.size_bytes()});
    pieces_.push_back({.iov_base = const_cast<uint8_t*>(bytes.data()), .iov_len = bytes.size()});
  }
  Count(header);
  return absl::OkStatus();
}

absl::Status StreamPageSink::AddWithKey(const PageHeader& header, const RemoteKey& key) {
  FERRITE_RETURN_IF_ERROR(MakeRoom());
  PutHeader(header);
  keys_[frames_ - 1] = EncodeRemoteKey(key);
  pieces_.push_back({.iov_base = keys_[frames_ - 1].data(), .iov_len = kRemoteKeyBytes});
  Count(header);
  return absl::OkStatus();
}

void StreamPageSink::PutHeader(const PageHeader& header) {
  headers_[frames_] = EncodePageHeader(header);
  pieces_.push_back({.iov_base = headers_[frames_].data(), .iov_len = kPageHeaderBytes});
  ++frames_;
}

void StreamPageSink::Count(const PageHeader& header) {
  gathered_ += kPageHeaderBytes + header.following_bytes();
  if (awaits_placed_ && header.type != PageFrameType::kRound) {
    // Its pages count wherever they are.
    const bool is_elsewhere = header.type == PageFrameType::kPages && !header.has_data();
    on_way_.push_back(kPageHeaderBytes + header.following_bytes() + (is_elsewhere ? header.count * kPageBytes : 0));
    on_way_bytes_ += on_way_.back();
  }
}

absl::Status StreamPageSink::Flush() {
  if (frames_ == 0) {
    return absl::OkStatus();
  }
  absl::Status status = stream_->WriteAll(std::span<iovec>(pieces_));
  while (absl::IsResourceExhausted(status) && FillLost()) {
    status = stream_->WriteAll(std::span<iovec>(pieces_));
  }
  pieces_.clear();
  frames_ = 0;
  pages_ = 0;
  gathered_ = 0;
  return status;
}

bool StreamPageSink::FillLost() {
  // The frame was begun with a page that could be read when it was summed: its bytes must come.
  bool filled = false;
  std::vector<iovec> pieces;
  for (const iovec& piece : pieces_) {
    std::span<const uint8_t> rest(static_cast<const uint8_t*>(piece.iov_base), piece.iov_len);
    const auto take = [&](size_t bytes, const uint8_t* from) {
      if (bytes > 0) {
        pieces.push_back({.iov_base = const_cast<uint8_t*>(from), .iov_len = bytes});
      }
      rest = rest.subspan(bytes);
    };
    while (const uint8_t* const lost = FirstUnreadable(rest)) {
      if (!Find(lost).ok()) {
        return false;
      }
      const size_t before = std::max<intptr_t>(lost - reinterpret_cast<uintptr_t>(lost) % kPageBytes - rest.data(), 0);
      take(before, rest.data());
      const size_t in_page = reinterpret_cast<uintptr_t>(rest.data()) % kPageBytes;
      take(std::min(rest.size(), kPageBytes - in_page), LostFiller().data() + in_page);
      filled = true;
    }
    take(rest.size(), rest.data());
  }
  pieces_ = std::move(pieces);
  return filled;
}

absl::Status StreamPageSink::AwaitPlaced(uint64_t bytes) {
  // In the kernel's buffers at either end, too: a page that is asked for when it is on its way already waits for what
  // is before it. A smaller receive buffer would not do: what was offered before would be dropped, and come again after
  // TCP's 200 ms. One goes while the one before it is placed, however large.
  while ((on_way_bytes_ >= bytes && on_way_.size() > 1) || on_way_.size() >= kMostOnWayFrames) {
    FERRITE_RETURN_IF_ERROR(AwaitWord());
  }
  return absl::OkStatus();
}

absl::Status StreamPageSink::AwaitWord() {
  uint8_t word = 0;
  if (const absl::Status status = stream_->ReadRest({&word, 1}); !status.ok()) {
    // The other end has closed it, and says why elsewhere.
    return absl::IsOutOfRange(status) ? absl::UnavailableError(status.message()) : status;
  }
  return word == kPlaced
             ? OnPlaced()
             : absl::InvalidArgumentError("page channel: the destination sent what is no word of a placed frame");
}

absl::Status StreamPageSink::OnPlaced() {
  if (on_way_.empty()) {
    return absl::InvalidArgumentError("page channel: the destination placed a frame that was not sent");
  }
  on_way_bytes_ -= on_way_.front();
  on_way_.pop_front();
  return absl::OkStatus();
}

absl::StatusOr<PageRange> StreamPageSink::NextRequest() {
  std::array<uint8_t, kPageHeaderBytes> bytes;
  FERRITE_RETURN_IF_ERROR(ReadRequest(bytes));
  FERRITE_ASSIGN_OR_RETURN(const PageHeader request, DecodePageHeader(bytes));
  if (request.type != PageFrameType::kRequest) {
    return absl::InvalidArgumentError("urgent channel: the destination sent what is no request");
  }
  return PageRange{.region = request.region, .first = request.first_page, .count = request.count};
}

bool StreamPageSink::HasRequest() {
  if (ahead_.size() < kPageHeaderBytes && ahead_end_.ok()) {
    const size_t had = ahead_.size();
    ahead_.resize(kMostRequestsAhead * kPageHeaderBytes);
    const absl::StatusOr<size_t> got = stream_->ReadSome(std::span(ahead_).subspan(had));
    ahead_.resize(had + got.value_or(0));
    ahead_end_ = got.status();
  }
  return ahead_.size() >= kPageHeaderBytes || !ahead_end_.ok();
}

absl::Status StreamPageSink::ReadRequest(std::span<uint8_t> bytes) {
  const auto ahead = static_cast<ptrdiff_t>(std::min(ahead_.size(), bytes.size()));
  std::copy(ahead_.begin(), ahead_.begin() + ahead, bytes.begin());
  ahead_.erase(ahead_.begin(), ahead_.begin() + ahead);
  const std::span<uint8_t> rest = bytes.subspan(static_cast<size_t>(ahead));
  if (rest.empty()) {
    return absl::OkStatus();
  }
  if (ahead == 0) {
    return ahead_end_.ok() ? stream_->ReadAll(rest) : ahead_end_;
  }
  const absl::Status status = ahead_end_.ok() ? stream_->ReadRest(rest) : ahead_end_;
  // The end is not between two requests.
  return absl::IsOutOfRange(status) ? absl::UnavailableError(status.message()) : status;
}

absl::StatusOr<PageHeader> StreamPageFeed::NextHeader() {
  std::array<uint8_t, kPageHeaderBytes> bytes;
  FERRITE_RETURN_IF_ERROR(stream_->ReadAll(bytes));
  return DecodePageHeader(bytes);
}

absl::StatusOr<PageHeader> StreamPageFeed::Next(PageHandler& handler) {
  FERRITE_ASSIGN_OR_RETURN(const PageHeader header, NextHeader());
  FERRITE_RETURN_IF_ERROR(TakeFrame(handler, header));
  return header;
}

absl::Status StreamPageFeed::TakeFrame(PageHandler& handler, const PageHeader& header) {
  FERRITE_RETURN_IF_ERROR(handler.Begin(header));
  switch (header.type) {
    case PageFrameType::kRequest:
      return absl::InvalidArgumentError("page frame: a request came from the source");
    case PageFrameType::kPages:
      FERRITE_RETURN_IF_ERROR(TakePages(handler, header));
      break;
    case PageFrameType::kZero:
    case PageFrameType::kPoison:
      FERRITE_RETURN_IF_ERROR(HandlePieces(handler, header, [this]() -> absl::Status {
        return stream_->shut_down() ? absl::UnavailableError(absl::StrCat(peer(), ": the connection was closed here"))
                                    : absl::OkStatus();
      }));
      break;
    default:
      break;
  }
  if (tells_placed_ && header.type != PageFrameType::kRound) {
    constexpr uint8_t kWord = kPlaced;
    FERRITE_RETURN_IF_ERROR(WriteBack({&kWord, 1}));
  }
  return absl::OkStatus();
}

absl::Status StreamPageFeed::TakePages(PageHandler& handler, const PageHeader& header) {
  std::array<uint32_t, kMaxDataPages> sums;
  FERRITE_RETURN_IF_ERROR(
      stream_->ReadRest({reinterpret_cast<uint8_t*>(sums.data()), header.count * sizeof(uint32_t)}));
  PageRange rest{.region = header.region, .first = header.first_page, .count = header.count};
  while (rest.count > 0) {
    FERRITE_ASSIGN_OR_RETURN(const PageHandler::Target target, handler.NextTarget(rest));
    const PageRange run{.region = rest.region, .first = rest.first, .count = target.pages};
    if (target.bytes.empty()) {
      FERRITE_RETURN_IF_ERROR(Drop(target.pages * kPageBytes));
    } else {
      FERRITE_RETURN_IF_ERROR(stream_->ReadRest(target.bytes));
      FERRITE_RETURN_IF_ERROR(
          Compare(handler, run, target.bytes,
                  std::span<const uint32_t>(sums).subspan(run.first - header.first_page, run.count)));
    }
    FERRITE_RETURN_IF_ERROR(handler.Filled(run));
    rest.first += target.pages;
    rest.count -= target.pages;
  }
  return absl::OkStatus();
}

absl::Status StreamPageFeed::Compare(PageHandler& handler, const PageRange& run, std::span<const uint8_t> bytes,
                                     std::span<const uint32_t> sums) {
  std::array<uint32_t, kMaxDataPages> here;
  // The hardware may lose a page of this side's, too.
  if (TouchMemory([&] { SumPages(bytes, std::span(here).first(run.count)); }).has_value()) {
    return absl::ResourceExhaustedError("memory that pages came to cannot be had");
  }
  for (uint64_t i = 0; i < run.count; ++i) {
    if (here[i] != sums[i]) {
      const PageRange page{.region = run.region, .first = run.first + i, .count = 1};
      const bool gone = IsLostFiller(bytes.subspan(i * kPageBytes, kPageBytes));
      FERRITE_RETURN_IF_ERROR(gone ? handler.Gone(page) : handler.Wrong(page));
    }
  }
  return absl::OkStatus();
}

absl::Status StreamPageFeed::Drop(uint64_t bytes) {
  dropped_.resize(kDroppedAtOnce);
  while (bytes > 0) {
    const uint64_t now = std::min<uint64_t>(bytes, dropped_.size());
    FERRITE_RETURN_IF_ERROR(stream_->ReadRest(std::span<uint8_t>(dropped_).first(now)));
    bytes -= now;
  }
  return absl::OkStatus();
}

absl::Status StreamPageFeed::Ask(std::span<const PageRange> runs) {
  std::vector<uint8_t> requests;
  requests.reserve(runs.size() * kPageHeaderBytes);
  for (const PageRange& run : runs) {
    const auto header = EncodePageHeader(HeaderOf(PageFrameType::kRequest, run));
    requests.insert(requests.end(), header.begin(), header.end());
  }
  return requests.empty() ? absl::OkStatus() : WriteBack(requests);
}

}  // namespace ferrite::migration
