#include "migration/channel/rdma/rdma_urgent_feed.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/time/time.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"
#include "migration/channel/rdma/read_frame.h"

namespace ferrite::migration {
namespace {

// What Next() returns for what was no page.
constexpr PageHeader kNothing{.type = PageFrameType::kKey};

}  // namespace

void RdmaUrgentFeed::Shutdown() {
  StreamPageFeed::Shutdown();
  puller_->Break();
}

absl::Status RdmaUrgentFeed::Join(WaitSet& set, uint32_t tag) {
  FERRITE_RETURN_IF_ERROR(StreamPageFeed::Join(set, tag));
  FERRITE_RETURN_IF_ERROR(set.Add(puller_->fd(), tag));
  // Also what says that the descriptor is to be readable again; an error is for Next() to find.
  set.AddCheck([this] { return !LookForEarly().ok() || early_.has_value(); }, tag);
  return absl::OkStatus();
}

absl::Status RdmaUrgentFeed::LookForEarly() {
  if (!early_.has_value()) {
    FERRITE_ASSIGN_OR_RETURN(early_, puller_->TakeEarly());
  }
  return absl::OkStatus();
}

std::optional<RemotePiece> RdmaUrgentFeed::Find(const PageRange& run) const {
  auto behind = chunks_.upper_bound({run.region, run.first});
  if (run.count * kPageBytes > Puller::kMostEarlyBytes || behind == chunks_.begin()) {
    return std::nullopt;
  }
  const auto& [at, chunk] = *std::prev(behind);
  if (at.first != run.region || run.first + run.count > at.second + chunk.count) {
    return std::nullopt;
  }
  return RemotePiece{.address = chunk.key.address + (run.first - at.second) * kPageBytes, .key = chunk.key.key};
}

absl::Status RdmaUrgentFeed::Ask(std::span<const PageRange> runs) {
  for (const PageRange& run : runs) {
    if (const std::optional<RemotePiece> from = Find(run); from.has_value()) {
      FERRITE_RETURN_IF_ERROR(puller_->BeginEarly(run, *from));
    }
  }
  return StreamPageFeed::Ask(runs);
}

absl::StatusOr<PageHeader> RdmaUrgentFeed::Next(PageHandler& handler) {
  while (true) {
    FERRITE_RETURN_IF_ERROR(LookForEarly());
    if (early_.has_value()) {
      return Place(handler, *std::exchange(early_, std::nullopt));
    }
    pollfd polled[] = {{.fd = stream().fd(), .events = POLLIN, .revents = 0},
                       {.fd = puller_->fd(), .events = POLLIN, .revents = 0}};
    (void)clock_.PollFor(polled, absl::InfiniteDuration());
    if (polled[0].revents != 0) {
      return TakeNextFrame(handler);
    }
  }
}

absl::StatusOr<PageHeader> RdmaUrgentFeed::TakeNextFrame(PageHandler& handler) {
  std::array<uint8_t, kPageHeaderBytes> bytes;
  FERRITE_RETURN_IF_ERROR(stream().ReadAll(bytes));
  FERRITE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(bytes, Frames::kLanes));
  const PageRange pages{.region = header.region, .first = header.first_page, .count = header.count};
  switch (header.type) {
    case PageFrameType::kKey: {
      std::array<uint8_t, kRemoteKeyBytes> body;
      FERRITE_RETURN_IF_ERROR(stream().ReadRest(body));
      FERRITE_ASSIGN_OR_RETURN(const RemoteKey key, DecodeRemoteKey(body));
      if (!key.given || chunks_.size() == kMostChunks) {
        return absl::InvalidArgumentError("urgent channel: a key that is none, or one too many");
      }
      chunks_[{pages.region, pages.first}] = {.count = pages.count, .key = key};
      return kNothing;
    }
    case PageFrameType::kBarrier:
    case PageFrameType::kEndRounds:
    case PageFrameType::kAskKey:
      return absl::InvalidArgumentError("urgent channel: a word of the rounds");
    default:
      break;
  }
  if (const auto placed = std::find(placed_.begin(), placed_.end(), pages); placed != placed_.end()) {
    placed_.erase(placed);
    if (header.type == PageFrameType::kZero) {
      // It was read, zeroes as it is.
      return kNothing;
    }
  }
  FERRITE_RETURN_IF_ERROR(TakeFrame(handler, header));
  return header;
}

absl::Status RdmaUrgentFeed::TakePages(PageHandler& handler, const PageHeader& header) {
  switch (header.bytes) {
    case PageBytes::kBehind:
      return StreamPageFeed::TakePages(handler, header);
    case PageBytes::kReadable:
      return TakeReadable(handler, header, stream(), *puller_);
    case PageBytes::kWritten:
      break;
  }
  return absl::InvalidArgumentError("urgent channel: pages that were written");
}

absl::StatusOr<PageHeader> RdmaUrgentFeed::Place(PageHandler& handler, const Puller::Early& early) {
  PageHeader header = HeaderOf(PageFrameType::kPages, early.pages);
  header.bytes = PageBytes::kReadable;
  FERRITE_RETURN_IF_ERROR(handler.Begin(header));
  PageRange rest = early.pages;
  bool was_news = false;
  while (rest.count > 0) {
    FERRITE_ASSIGN_OR_RETURN(const PageHandler::Target target, handler.NextTarget(rest));
    if (!target.bytes.empty()) {
      const uint8_t* const from = &early.bytes[(rest.first - early.pages.first) * kPageBytes];
      if (TouchMemory([&] { std::memcpy(target.bytes.data(), from, target.bytes.size()); }).has_value()) {
        return absl::ResourceExhaustedError("memory that pages came to cannot be had");
      }
      FERRITE_RETURN_IF_ERROR(handler.Filled({.region = rest.region, .first = rest.first, .count = target.pages}));
      was_news = true;
    }
    rest.first += target.pages;
    rest.count -= target.pages;
  }
  if (!was_news) {
    // The source's frame of it was faster.
    return kNothing;
  }
  if (placed_.size() == kMostPlaced) {
    placed_.erase(placed_.begin());
  }
  placed_.push_back(early.pages);
  return header;
}

}  // namespace ferrite::migration
