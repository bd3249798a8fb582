#include "migration/channel/rdma/puller.h"

#include <sys/mman.h>

#include <utility>

#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<Puller>> Puller::Create(std::unique_ptr<QueuePair> pair,
                                                       std::shared_ptr<VerbsDomain> domain, const Stream& stream,
                                                       absl::Duration patience, const Clock& clock) {
  FERRITE_ASSIGN_OR_RETURN(
      Mapping memory,
      Mapping::Create("pages that are read", kMostBytes + kMostEarly * kMostEarlyBytes, MAP_PRIVATE | MAP_ANONYMOUS));
  std::unique_ptr<Puller> puller(
      new Puller(std::move(pair), std::move(domain), std::move(memory), stream, patience, clock));
  FERRITE_ASSIGN_OR_RETURN(puller->registered_,
                           puller->domain_->Register(puller->memory_.span(), MemoryAccess::kLocal));
  return puller;
}

Puller::Puller(std::unique_ptr<QueuePair> pair, std::shared_ptr<VerbsDomain> domain, Mapping memory,
               const Stream& stream, absl::Duration patience, const Clock& clock)
    : domain_(std::move(domain)),
      memory_(std::move(memory)),
      pair_(std::move(pair)),
      waiter_(*pair_, stream, patience, clock) {}

std::span<uint8_t> Puller::SlotMemory(size_t slot) const {
  return memory_.span().subspan(kMostBytes + slot * kMostEarlyBytes, kMostEarlyBytes);
}

void Puller::Note(std::span<const Completion> over) {
  for (const Completion& one : over) {
    if (one.id == kWhole) {
      whole_is_read_ = true;
    } else {
      slots_[one.id].is_read = true;
    }
  }
}

absl::StatusOr<std::span<const uint8_t>> Puller::Read(const RemotePiece& from, uint64_t bytes) {
  const std::span<uint8_t> into = memory_.span().first(bytes);
  whole_is_read_ = false;
  FERRITE_RETURN_IF_ERROR(pair_->PostRead(kWhole, {.memory = registered_.get(), .bytes = into}, from));
  while (!whole_is_read_) {
    std::array<Completion, kMostEarly + 1> over;
    FERRITE_ASSIGN_OR_RETURN(const size_t count, waiter_.Await(over));
    Note(std::span(over).first(count));
  }
  return into;
}

absl::Status Puller::BeginEarly(const PageRange& pages, const RemotePiece& from) {
  for (size_t slot = 0; slot < kMostEarly; ++slot) {
    if (!slots_[slot].is_used) {
      FERRITE_RETURN_IF_ERROR(pair_->PostRead(
          slot, {.memory = registered_.get(), .bytes = SlotMemory(slot).first(pages.count * kPageBytes)}, from));
      slots_[slot] = {.is_used = true, .is_read = false, .pages = pages};
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

Puller::Early Puller::Take(size_t slot) {
  // Its memory is used again at the earliest when something is begun, which is behind what is done with it.
  const PageRange pages = std::exchange(slots_[slot], {}).pages;
  return {.pages = pages, .bytes = SlotMemory(slot).first(pages.count * kPageBytes)};
}

absl::StatusOr<std::optional<Puller::Early>> Puller::TakeEarly() {
  std::array<Completion, kMostEarly + 1> over;
  FERRITE_RETURN_IF_ERROR(pair_->Arm());
  FERRITE_ASSIGN_OR_RETURN(const size_t count, waiter_.Take(over));
  Note(std::span(over).first(count));
  for (size_t slot = 0; slot < kMostEarly; ++slot) {
    if (slots_[slot].is_used && slots_[slot].is_read) {
      return Take(slot);
    }
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<Puller::Early>> Puller::AwaitEarly(uint16_t region, uint64_t page) {
  for (size_t slot = 0; slot < kMostEarly; ++slot) {
    const Slot& one = slots_[slot];
    if (!one.is_used || one.pages.region != region || page < one.pages.first ||
        page >= one.pages.first + one.pages.count) {
      continue;
    }
    while (!one.is_read) {
      std::array<Completion, kMostEarly + 1> over;
      FERRITE_ASSIGN_OR_RETURN(const size_t count, waiter_.Await(over));
      Note(std::span(over).first(count));
    }
    return Take(slot);
  }
  return std::nullopt;
}

}  // namespace ferrite::migration
