#include "devices/virtio/queue.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/bus_fault.h"

// The rings are little-endian, and so are the only hosts.
static_assert(std::endian::native == std::endian::little);

namespace ferrite::virtio {
namespace {

// Offsets in the available and in the used ring, which start alike (§2.7.6, §2.7.8).
constexpr uint64_t kFlagsOffset = 0;
constexpr uint64_t kIndexOffset = 2;
constexpr uint64_t kRingOffset = 4;
constexpr uint64_t kUsedElementBytes = 8;

uint64_t DescriptorBytes(uint16_t size) { return sizeof(Descriptor) * uint64_t{size}; }
// Each ring ends with the 16-bit event field of the other side.
uint64_t AvailableBytes(uint16_t size) { return kRingOffset + 2 * uint64_t{size} + 2; }
uint64_t UsedBytes(uint16_t size) { return kRingOffset + kUsedElementBytes * uint64_t{size} + 2; }

absl::Status CheckAlignment(absl::string_view what, GuestAddress address, uint64_t alignment) {
  if (address.value() % alignment == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " at 0x", absl::Hex(address.value()), " is not aligned to ", alignment, " bytes"));
}

absl::StatusOr<std::span<uint8_t>> RingMemory(const GuestMemory& memory, absl::string_view what, GuestAddress address,
                                              uint64_t bytes) {
  auto slice = memory.Slice(address, bytes);
  if (!slice.ok()) {
    return Annotate(slice.status(), what);
  }
  return slice;
}

std::atomic_ref<uint16_t> Field(std::span<uint8_t> ring, uint64_t offset) {
  TouchBeforeAtomic(ring.data() + offset);
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ring.data() + offset));
}

}  // namespace

absl::Status Chain::Read(uint64_t offset, std::span<uint8_t> out) const {
  if (offset > readable_bytes_ || out.size() > readable_bytes_ - offset) {
    return absl::OutOfRangeError(
        absl::StrCat("the chain has ", readable_bytes_, " readable bytes, not ", out.size(), " at ", offset));
  }
  for (std::span<const uint8_t> segment : readable_) {
    if (out.empty()) {
      break;
    }
    if (offset >= segment.size()) {
      offset -= segment.size();
      continue;
    }
    const size_t bytes = std::min(out.size(), segment.size() - offset);
    uint8_t* const to = out.data();
    const uint8_t* const from = segment.data() + offset;
    FERRITE_RETURN_IF_ERROR(memory_->Touch([=] { std::memcpy(to, from, bytes); }));
    out = out.subspan(bytes);
    offset = 0;
  }
  return absl::OkStatus();
}

absl::Status Chain::Write(uint64_t offset, std::span<const uint8_t> in) const {
  if (offset > writable_bytes_ || in.size() > writable_bytes_ - offset) {
    return absl::OutOfRangeError(
        absl::StrCat("the chain has ", writable_bytes_, " writable bytes, not ", in.size(), " at ", offset));
  }
  const uint64_t start = offset;
  const uint64_t total = in.size();
  for (const WritableSegment& segment : writable_) {
    if (in.empty()) {
      break;
    }
    if (offset >= segment.bytes.size()) {
      offset -= segment.bytes.size();
      continue;
    }
    const size_t bytes = std::min(in.size(), segment.bytes.size() - offset);
    uint8_t* const to = segment.bytes.data() + offset;
    const uint8_t* const from = in.data();
    if (absl::Status status = memory_->Touch([=] { std::memcpy(to, from, bytes); }); !status.ok()) {
      MarkWritten(start, total);
      return status;
    }
    in = in.subspan(bytes);
    offset = 0;
  }
  MarkWritten(start, total);
  return absl::OkStatus();
}

void Chain::MarkWritten(uint64_t offset, uint64_t bytes) const {
  FERRITE_CHECK(offset <= writable_bytes_ && bytes <= writable_bytes_ - offset);
  for (const WritableSegment& segment : writable_) {
    if (bytes == 0) {
      break;
    }
    if (offset >= segment.bytes.size()) {
      offset -= segment.bytes.size();
      continue;
    }
    const uint64_t part = std::min<uint64_t>(bytes, segment.bytes.size() - offset);
    memory_->MarkWritten(segment.address + offset, part);
    bytes -= part;
    offset = 0;
  }
}

Queue::Queue(GuestMemory& memory, uint16_t max_size) : memory_(memory), max_size_(max_size) {
  FERRITE_CHECK(std::has_single_bit(max_size) && max_size <= kMaxQueueSize);
}

absl::Status Queue::Check(const QueueAddresses& addresses) const {
  if (!std::has_single_bit(addresses.size) || addresses.size > max_size_) {
    return absl::InvalidArgumentError(
        absl::StrCat("queue size ", addresses.size, " is not a power of two from 1 to ", max_size_));
  }
  FERRITE_RETURN_IF_ERROR(CheckAlignment("descriptor table", addresses.descriptors, 16));
  FERRITE_RETURN_IF_ERROR(CheckAlignment("available ring", addresses.available, 2));
  FERRITE_RETURN_IF_ERROR(CheckAlignment("used ring", addresses.used, 4));
  const uint16_t size = addresses.size;
  FERRITE_RETURN_IF_ERROR(
      RingMemory(memory_, "descriptor table", addresses.descriptors, DescriptorBytes(size)).status());
  FERRITE_RETURN_IF_ERROR(RingMemory(memory_, "available ring", addresses.available, AvailableBytes(size)).status());
  return RingMemory(memory_, "used ring", addresses.used, UsedBytes(size)).status();
}

absl::Status Queue::Enable(const QueueAddresses& addresses, bool event_index, bool indirect) {
  FERRITE_RETURN_IF_ERROR(Check(addresses));
  const uint16_t size = addresses.size;
  Disable();
  FERRITE_ASSIGN_OR_RETURN(descriptors_,
                           RingMemory(memory_, "descriptor table", addresses.descriptors, DescriptorBytes(size)));
  FERRITE_ASSIGN_OR_RETURN(available_,
                           RingMemory(memory_, "available ring", addresses.available, AvailableBytes(size)));
  FERRITE_ASSIGN_OR_RETURN(used_, RingMemory(memory_, "used ring", addresses.used, UsedBytes(size)));
  addresses_ = addresses;
  event_index_ = event_index;
  indirect_ = indirect;
  enabled_ = true;
  return absl::OkStatus();
}

void Queue::Disable() {
  enabled_ = false;
  ring_status_ = absl::OkStatus();
  addresses_ = {};
  descriptors_ = available_ = used_ = {};
  LoadProgress({});
}

absl::StatusOr<std::optional<Chain>> Queue::Pop() {
  if (!enabled_) {
    return std::nullopt;
  }
  // Acquire: what the driver wrote before it raised the index is seen below (§2.7.13.3).
  uint16_t available = next_available_;
  TouchRing([&] { available = Field(available_, kIndexOffset).load(std::memory_order_acquire); });
  FERRITE_RETURN_IF_ERROR(ring_status_);
  const uint16_t pending = available - next_available_;
  if (pending == 0) {
    return std::nullopt;
  }
  if (pending > size()) {
    return absl::InvalidArgumentError(absl::StrCat("the available index jumped from ", next_available_, " to ",
                                                   available, ", more than the queue's ", size()));
  }
  // Every chain takes a descriptor of the table at least, so an honest driver cannot have more of them out.
  if (in_flight() >= size()) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", size(), " chains are in flight"));
  }
  uint16_t head = 0;
  TouchRing(
      [&] { head = Field(available_, kRingOffset + 2 * (next_available_ % size())).load(std::memory_order_relaxed); });
  FERRITE_RETURN_IF_ERROR(ring_status_);
  Chain chain(memory_, head);
  FERRITE_RETURN_IF_ERROR(Walk(chain, descriptors_, size(), head, /*in_indirect=*/false));
  ++next_available_;
  return chain;
}

absl::Status Queue::Walk(Chain& chain, std::span<const uint8_t> table, uint32_t entries, uint32_t first,
                         bool in_indirect) const {
  // Each step adds a segment or ends the walk, and segments are limited: a loop ends there.
  for (uint32_t index = first;;) {
    if (index >= entries) {
      return absl::InvalidArgumentError(absl::StrCat("descriptor ", index, " is past the end of a table of ", entries));
    }
    Descriptor descriptor;  // copied once: the driver may change it at any time
    FERRITE_RETURN_IF_ERROR(memory_.Touch(
        [&] { std::memcpy(&descriptor, table.data() + sizeof(Descriptor) * index, sizeof(Descriptor)); }));
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      if (!indirect_) {
        return absl::InvalidArgumentError(absl::StrCat("descriptor ", index, " is indirect, which was not negotiated"));
      }
      if (in_indirect || (descriptor.flags & kDescriptorNext) != 0) {
        return absl::InvalidArgumentError(absl::StrCat("descriptor ", index, " is indirect and ",
                                                       in_indirect ? "in an indirect table" : "has a next one"));
      }
      if (descriptor.length == 0 || descriptor.length % sizeof(Descriptor) != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("an indirect table of ", descriptor.length, " bytes is not a number of descriptors"));
      }
      FERRITE_ASSIGN_OR_RETURN(
          const std::span<uint8_t> indirect,
          RingMemory(memory_, "indirect table", GuestAddress(descriptor.address), descriptor.length));
      return Walk(chain, indirect, descriptor.length / sizeof(Descriptor), 0, /*in_indirect=*/true);
    }
    FERRITE_RETURN_IF_ERROR(AddSegment(chain, descriptor));
    if ((descriptor.flags & kDescriptorNext) == 0) {
      return absl::OkStatus();
    }
    index = descriptor.next;
  }
}

absl::Status Queue::AddSegment(Chain& chain, const Descriptor& descriptor) const {
  if (chain.readable_.size() + chain.writable_.size() >= size()) {
    return absl::InvalidArgumentError(absl::StrCat("a chain has more than ", size(), " segments, or loops"));
  }
  if (descriptor.length == 0) {
    return absl::InvalidArgumentError("a descriptor has length zero");
  }
  if (chain.readable_bytes_ + chain.writable_bytes_ + descriptor.length > kMaxChainBytes) {
    return absl::InvalidArgumentError("a chain describes more than 4 GiB");
  }
  const GuestAddress address(descriptor.address);
  FERRITE_ASSIGN_OR_RETURN(const std::span<uint8_t> bytes,
                           RingMemory(memory_, "descriptor", address, descriptor.length));
  if ((descriptor.flags & kDescriptorWrite) != 0) {
    chain.writable_.push_back({address, bytes});
    chain.writable_bytes_ += bytes.size();
    return absl::OkStatus();
  }
  if (!chain.writable_.empty()) {
    return absl::InvalidArgumentError("a chain has a readable segment after a writable one");
  }
  chain.readable_.push_back(bytes);
  chain.readable_bytes_ += bytes.size();
  return absl::OkStatus();
}

void Queue::PutBack() {
  FERRITE_CHECK(enabled_ && in_flight() > 0);
  --next_available_;
}

void Queue::Push(uint16_t head, uint64_t written) {
  FERRITE_CHECK(enabled_ && in_flight() > 0);
  const uint64_t offset = kRingOffset + kUsedElementBytes * (next_used_ % size());
  const uint32_t element[2] = {
      head, static_cast<uint32_t>(std::min<uint64_t>(written, std::numeric_limits<uint32_t>::max()))};
  TouchRing([&] { std::memcpy(used_.data() + offset, element, sizeof(element)); });
  memory_.MarkWritten(addresses_.used + offset, sizeof(element));
  ++next_used_;
  StoreUsedField(kIndexOffset, next_used_);
}

bool Queue::TakeInterruptNeeded() {
  if (!enabled_ || next_used_ == signalled_used_) {
    return false;
  }
  const uint16_t before = std::exchange(signalled_used_, next_used_);
  const bool valid = std::exchange(signalled_used_valid_, true);
  uint16_t field = 0;
  TouchRing([&] {
    field = Field(available_, event_index_ ? used_event_offset() : kFlagsOffset).load(std::memory_order_seq_cst);
  });
  if (!event_index_) {
    return (field & kAvailableNoInterrupt) == 0;
  }
  const uint16_t event = field;
  // §2.7.7.2: the driver wants to know when the index passes `event`, all modulo 2^16.
  return !valid || static_cast<uint16_t>(next_used_ - event - 1) < static_cast<uint16_t>(next_used_ - before);
}

void Queue::DisableNotifications() {
  // With the event index there is nothing to do: the driver rings once for each event that is set, and none is.
  if (enabled_ && !event_index_) {
    StoreUsedField(kFlagsOffset, kUsedNoNotify);
  }
}

bool Queue::EnableNotifications() {
  if (!enabled_) {
    return false;
  }
  if (event_index_) {
    StoreUsedField(available_event_offset(), next_available_);
  } else {
    StoreUsedField(kFlagsOffset, 0);
  }
  // After the store in the one order that all threads agree on: either the driver sees it, or we see its index.
  // A ring that is lost is one that Pop() has something to say of.
  bool more = true;
  TouchRing([&] { more = Field(available_, kIndexOffset).load(std::memory_order_seq_cst) != next_available_; });
  return more;
}

Queue::Progress Queue::progress() const {
  return {next_available_, next_used_, signalled_used_, signalled_used_valid_};
}

absl::Status Queue::CheckProgress(uint16_t size, const Progress& progress) {
  const uint16_t in_flight = progress.next_available - progress.next_used;
  if (in_flight > size) {
    return absl::InvalidArgumentError(absl::StrCat("available index ", progress.next_available, " and used index ",
                                                   progress.next_used, " do not fit a queue of ", size));
  }
  return absl::OkStatus();
}

void Queue::LoadProgress(const Progress& progress) {
  next_available_ = progress.next_available;
  next_used_ = progress.next_used;
  signalled_used_ = progress.signalled_used;
  signalled_used_valid_ = progress.signalled_used_valid;
}

void Queue::TouchRing(absl::FunctionRef<void()> touch) {
  if (absl::Status status = memory_.Touch(touch); !status.ok()) {
    ring_status_ = Annotate(status, "ring");
  }
}

// Always sequentially consistent: whoever stores here reads a field of the driver's next (§2.7.7.2, §2.7.10).
void Queue::StoreUsedField(uint64_t offset, uint16_t value) {
  TouchRing([&] { Field(used_, offset).store(value, std::memory_order_seq_cst); });
  memory_.MarkWritten(addresses_.used + offset, sizeof(value));
}

}  // namespace ferrite::virtio
