#include "migration/channel/rdma/rdma_feed.h"

#include <sys/mman.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/channel/rdma/read_frame.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<RdmaPageFeed>> RdmaPageFeed::Create(std::unique_ptr<Stream>& stream,
                                                                   std::unique_ptr<QueuePair> push,
                                                                   std::unique_ptr<QueuePair> pull,
                                                                   std::shared_ptr<VerbsDomain> domain,
                                                                   std::shared_ptr<RdmaPlace> place,
                                                                   absl::Duration patience, const Clock& clock) {
  Messages messages;
  FERRITE_ASSIGN_OR_RETURN(messages.memory, Mapping::Create("messages", kPageBytes, MAP_PRIVATE | MAP_ANONYMOUS));
  FERRITE_ASSIGN_OR_RETURN(messages.registered, domain->Register(messages.memory.span(), MemoryAccess::kLocal));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Puller> puller,
                           Puller::Create(std::move(pull), domain, *stream, patience, clock));
  for (uint64_t slot = 0; slot < QueuePair::kMostReceives; ++slot) {
    FERRITE_RETURN_IF_ERROR(PostReceive(*push, messages, slot));
  }
  return std::unique_ptr<RdmaPageFeed>(new RdmaPageFeed(std::move(stream), std::move(push), std::move(puller),
                                                        std::move(domain), std::move(place), std::move(messages),
                                                        patience, clock));
}

RdmaPageFeed::RdmaPageFeed(std::unique_ptr<Stream> stream, std::unique_ptr<QueuePair> push,
                           std::unique_ptr<Puller> puller, std::shared_ptr<VerbsDomain> domain,
                           std::shared_ptr<RdmaPlace> place, Messages messages, absl::Duration patience,
                           const Clock& clock)
    : StreamPageFeed(std::move(stream)),
      place_(std::move(place)),
      writer_(std::make_shared<StreamWriter>(StreamPageFeed::stream())),
      domain_(std::move(domain)),
      messages_(std::move(messages)),
      push_(std::move(push)),
      waiter_(*push_, StreamPageFeed::stream(), patience, clock),
      may_push_(place_->Add(*push_)),
      puller_(std::move(puller)) {}

RdmaPageFeed::~RdmaPageFeed() {
  place_->Remove(*push_);
  writer_->Close();
}

void RdmaPageFeed::Shutdown() {
  StreamPageFeed::Shutdown();
  push_->Break();
  puller_->Break();
}

absl::Status RdmaPageFeed::PostReceive(QueuePair& push, const Messages& messages, uint64_t slot) {
  return push.PostReceive(slot, {.memory = messages.registered.get(),
                                 .bytes = messages.memory.span().subspan(slot * kMessageBytes, kMessageBytes)});
}

absl::StatusOr<PageHeader> RdmaPageFeed::NextHeader() {
  while (true) {
    std::array<uint8_t, kPageHeaderBytes> bytes;
    FERRITE_RETURN_IF_ERROR(stream().ReadAll(bytes));
    FERRITE_ASSIGN_OR_RETURN(PageHeader header, DecodePageHeader(bytes, Frames::kLanes));
    FERRITE_ASSIGN_OR_RETURN(const bool was_own, TakeOwn(header));
    if (was_own) {
      continue;
    }
    if (header.type == PageFrameType::kRound && header.bytes == PageBytes::kWritten) {
      // All of it is in place: what came before this, and of what was written the barrier said so.
      FERRITE_RETURN_IF_ERROR(WriteBack(EncodePageHeader({.type = PageFrameType::kBarrier, .count = barrier_})));
      header.bytes = PageBytes::kBehind;
    }
    return header;
  }
}

absl::StatusOr<bool> RdmaPageFeed::TakeOwn(const PageHeader& header) {
  switch (header.type) {
    case PageFrameType::kBarrier:
      FERRITE_RETURN_IF_ERROR(AwaitSend(header.count));
      return true;
    case PageFrameType::kAskKey:
      FERRITE_RETURN_IF_ERROR(
          place_->Ask({.region = header.region, .first = header.first_page, .count = header.count}, writer_));
      return true;
    case PageFrameType::kEndRounds:
      place_->End();
      return true;
    case PageFrameType::kKey:
      return absl::InvalidArgumentError("page frame: a key came from the source");
    default:
      return false;
  }
}

absl::Status RdmaPageFeed::AwaitSend(uint32_t number) {
  if (!may_push_ || number != barrier_ + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("page frame: BARRIER of SEND ", number, " came behind that of ", barrier_));
  }
  barrier_ = number;
  while (received_ < barrier_) {
    std::array<Completion, QueuePair::kMostReceives> over;
    FERRITE_ASSIGN_OR_RETURN(const size_t count, waiter_.Await(over));
    for (const Completion& one : std::span(over).first(count)) {
      ++received_;
      FERRITE_RETURN_IF_ERROR(PostReceive(*push_, messages_, one.id));
    }
  }
  return absl::OkStatus();
}

absl::Status RdmaPageFeed::TakePages(PageHandler& handler, const PageHeader& header) {
  PageRange rest{.region = header.region, .first = header.first_page, .count = header.count};
  switch (header.bytes) {
    case PageBytes::kBehind:
      return StreamPageFeed::TakePages(handler, header);
    case PageBytes::kReadable:
      return TakeReadable(handler, header, stream(), *puller_);
    case PageBytes::kWritten:
      break;
  }
  FERRITE_RETURN_IF_ERROR(place_->CheckWritten(rest));
  while (rest.count > 0) {
    FERRITE_ASSIGN_OR_RETURN(const uint64_t done, handler.Written(rest));
    rest.first += done;
    rest.count -= done;
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
