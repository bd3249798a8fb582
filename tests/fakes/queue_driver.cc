#include "tests/fakes/queue_driver.h"

#include <atomic>
#include <utility>

#include "base/status.h"

namespace ferrite {
namespace {

using virtio::Descriptor;
using virtio::kDescriptorIndirect;
using virtio::kDescriptorNext;
using virtio::kDescriptorWrite;

// The field of a ring that the device uses at the same time.
std::atomic_ref<uint16_t> Field(const GuestMemory& memory, GuestAddress address) {
  auto slice = memory.Slice(address, 2);
  FERRITE_CHECK(slice.ok());
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(slice->data()));
}

}  // namespace

GuestAddress GuestArena::Allocate(uint64_t bytes, uint64_t alignment) {
  const GuestAddress address((next_.value() + alignment - 1) / alignment * alignment);
  next_ = address + bytes;
  FERRITE_CHECK(next_ <= end_);
  FERRITE_CHECK(memory_.Fill(address, 0, bytes).ok());
  return address;
}

GuestAddress GuestArena::Place(std::span<const uint8_t> content, uint64_t alignment) {
  const GuestAddress address = Allocate(content.size(), alignment);
  FERRITE_CHECK(memory_.Write(address, content).ok());
  return address;
}

std::vector<uint8_t> GuestArena::Read(GuestAddress address, uint64_t bytes) const {
  std::vector<uint8_t> content(bytes);
  FERRITE_CHECK(memory_.Read(address, content).ok());
  return content;
}

QueueDriver::QueueDriver(GuestArena& arena, uint16_t size, bool event_index)
    : arena_(arena), event_index_(event_index), chains_(size) {
  addresses_.size = size;
  addresses_.descriptors = arena_.Allocate(16 * uint64_t{size}, 16);
  addresses_.available = arena_.Allocate(6 + 2 * uint64_t{size}, 2);
  addresses_.used = arena_.Allocate(6 + 8 * uint64_t{size}, 4);
  for (uint16_t i = size; i > 0; --i) {
    free_.push_back(i - 1);
  }
}

ChainBuilder QueueDriver::Chain() { return ChainBuilder(*this); }

uint16_t QueueDriver::AllocateDescriptor() {
  FERRITE_CHECK(!free_.empty());
  const uint16_t index = free_.back();
  free_.pop_back();
  return index;
}

uint16_t QueueDriver::used_index() const {
  return Field(arena_.memory(), addresses_.used + 2).load(std::memory_order_acquire);
}

std::optional<QueueDriver::Used> QueueDriver::TakeUsed() {
  if (!HasUsed()) {
    return std::nullopt;
  }
  const GuestAddress element = addresses_.used + 4 + 8 * (seen_used_ % size());
  auto id = arena_.memory().ReadObject<uint32_t>(element);
  auto written = arena_.memory().ReadObject<uint32_t>(element + 4);
  FERRITE_CHECK(id.ok() && written.ok() && *id < size());
  ++seen_used_;
  for (const uint16_t descriptor : chains_[*id]) {
    free_.push_back(descriptor);
  }
  chains_[*id].clear();
  return Used{static_cast<uint16_t>(*id), *written};
}

bool QueueDriver::NeedsKick(uint16_t added) const {
  if (!event_index_) {
    return (Field(arena_.memory(), addresses_.used).load(std::memory_order_seq_cst) & virtio::kUsedNoNotify) == 0;
  }
  const uint16_t event =
      Field(arena_.memory(), addresses_.used + 4 + 8 * uint64_t{size()}).load(std::memory_order_seq_cst);
  return static_cast<uint16_t>(available_index_ - event - 1) < added;
}

void QueueDriver::DisableInterrupts() {
  if (event_index_) {
    SetUsedEvent(seen_used_ - 1);
  } else {
    Field(arena_.memory(), addresses_.available).store(virtio::kAvailableNoInterrupt, std::memory_order_seq_cst);
  }
}

void QueueDriver::SetUsedEvent(uint16_t index) {
  if (event_index_) {
    Field(arena_.memory(), addresses_.available + 4 + 2 * uint64_t{size()}).store(index, std::memory_order_seq_cst);
  } else {
    Field(arena_.memory(), addresses_.available).store(0, std::memory_order_seq_cst);
  }
}

void QueueDriver::WriteDescriptor(uint16_t index, const Descriptor& descriptor) {
  FERRITE_CHECK(arena_.memory().WriteObject(addresses_.descriptors + sizeof(Descriptor) * index, descriptor).ok());
}

void QueueDriver::MakeAvailable(uint16_t head) {
  Field(arena_.memory(), addresses_.available + 4 + 2 * (available_index_ % size()))
      .store(head, std::memory_order_relaxed);
  SetAvailableIndex(available_index_ + 1);
}

void QueueDriver::SetAvailableIndex(uint16_t index) {
  available_index_ = index;
  Field(arena_.memory(), addresses_.available + 2).store(index, std::memory_order_seq_cst);
}

ChainBuilder& ChainBuilder::Readable(std::span<const uint8_t> content) {
  return ReadableAt(driver_.arena_.Place(content), static_cast<uint32_t>(content.size()));
}

ChainBuilder& ChainBuilder::Writable(uint32_t bytes, GuestAddress* where) {
  const GuestAddress address = driver_.arena_.Allocate(bytes);
  if (where != nullptr) {
    *where = address;
  }
  return WritableAt(address, bytes);
}

ChainBuilder& ChainBuilder::ReadableAt(GuestAddress address, uint32_t bytes) {
  segments_.push_back({address.value(), bytes, 0, 0});
  return *this;
}

ChainBuilder& ChainBuilder::WritableAt(GuestAddress address, uint32_t bytes) {
  segments_.push_back({address.value(), bytes, kDescriptorWrite, 0});
  return *this;
}

uint16_t ChainBuilder::Submit() {
  FERRITE_CHECK(!segments_.empty());
  std::vector<uint16_t> indexes;
  for (size_t i = 0; i < segments_.size(); ++i) {
    indexes.push_back(driver_.AllocateDescriptor());
  }
  for (size_t i = 0; i < segments_.size(); ++i) {
    Descriptor descriptor = segments_[i];
    if (i + 1 < segments_.size()) {
      descriptor.flags |= kDescriptorNext;
      descriptor.next = indexes[i + 1];
    }
    driver_.WriteDescriptor(indexes[i], descriptor);
  }
  const uint16_t head = indexes.front();
  driver_.chains_[head] = std::move(indexes);
  driver_.MakeAvailable(head);
  return head;
}

uint16_t ChainBuilder::SubmitIndirect() {
  FERRITE_CHECK(!segments_.empty());
  for (size_t i = 0; i + 1 < segments_.size(); ++i) {
    segments_[i].flags |= kDescriptorNext;
    segments_[i].next = static_cast<uint16_t>(i + 1);
  }
  const size_t bytes = segments_.size() * sizeof(Descriptor);
  const GuestAddress table = driver_.arena_.Place({reinterpret_cast<const uint8_t*>(segments_.data()), bytes});
  const uint16_t head = driver_.AllocateDescriptor();
  driver_.WriteDescriptor(head, {table.value(), static_cast<uint32_t>(bytes), kDescriptorIndirect, 0});
  driver_.chains_[head] = {head};
  driver_.MakeAvailable(head);
  return head;
}

std::vector<HostileChain> HostileChains() {
  // Writes `descriptors` to the start of the table and makes the first available.
  const auto raw = [](std::vector<Descriptor> descriptors) {
    return [descriptors](QueueDriver& driver) {
      for (size_t i = 0; i < descriptors.size(); ++i) {
        driver.WriteDescriptor(static_cast<uint16_t>(i), descriptors[i]);
      }
      driver.MakeAvailable(0);
    };
  };
  // The same with `descriptors` in an indirect table of `bytes` (0: as many as there are).
  const auto indirect = [](std::vector<Descriptor> descriptors, uint32_t bytes = 0, uint16_t flags = 0) {
    return [descriptors, bytes, flags](QueueDriver& driver) {
      const uint32_t all = static_cast<uint32_t>(descriptors.size() * sizeof(Descriptor));
      const GuestAddress table = driver.arena().Place({reinterpret_cast<const uint8_t*>(descriptors.data()), all});
      driver.WriteDescriptor(
          0, {table.value(), bytes == 0 ? all : bytes, static_cast<uint16_t>(kDescriptorIndirect | flags), 1});
      driver.WriteDescriptor(1, {0x1000, 16, kDescriptorWrite, 0});
      driver.MakeAvailable(0);
    };
  };
  const uint16_t kNext = kDescriptorNext;
  const uint16_t kWrite = kDescriptorWrite;
  const uint64_t kNowhere = uint64_t{1} << 45;  // larger than any guest
  return {
      {"LoopOfOne", false, raw({{0x1000, 16, kNext, 0}})},
      {"LoopOfTwo", false, raw({{0x1000, 16, kNext, 1}, {0x2000, 16, kNext, 0}})},
      {"LoopOfWritable", false, raw({{0x1000, 16, static_cast<uint16_t>(kNext | kWrite), 0}})},
      {"NextPastTheTable", false, raw({{0x1000, 16, kNext, 0xffff}})},
      {"AddressOutOfRange", false, raw({{kNowhere, 16, kWrite, 0}})},
      {"ReadableOutOfRange", false, raw({{kNowhere, 16, 0, 0}})},
      {"AddressInTheMmioHole", false, raw({{kMmioHoleStart.value(), 16, kWrite, 0}})},
      {"LengthPastTheEnd", false, raw({{0x1000, 0xffff'ffff, kWrite, 0}})},
      {"LengthWrapsAround", false, raw({{0xffff'ffff'ffff'fff0, 0x1000, kWrite, 0}})},
      {"LengthZero", false, raw({{0x1000, 0, kWrite, 0}})},
      {"ReadableLengthZero", false, raw({{0x1000, 0, kNext, 1}, {0x2000, 16, kWrite, 0}})},
      {"ReadableAfterWritable", false,
       raw({{0x1000, 16, static_cast<uint16_t>(kNext | kWrite), 1}, {0x2000, 16, 0, 0}})},
      {"HeadPastTheTable", false, [](QueueDriver& driver) { driver.MakeAvailable(driver.size()); }},
      {"AvailableIndexJumps", false,
       [](QueueDriver& driver) { driver.SetAvailableIndex(driver.available_index() + driver.size() + 1); }},
      {"AvailableIndexGoesBack", false,
       [](QueueDriver& driver) { driver.SetAvailableIndex(driver.available_index() - 1); }},
      {"IndirectNotNegotiated", false, indirect({{0x1000, 16, kWrite, 0}})},
      {"IndirectNested", true, indirect({{0x1000, 16, kDescriptorIndirect, 0}})},
      {"IndirectWithNext", true, indirect({{0x1000, 16, kWrite, 0}}, 0, kNext)},
      {"IndirectOfOddLength", true, indirect({{0x1000, 16, kWrite, 0}}, 17)},
      {"IndirectOutOfRange", true, raw({{kNowhere, 16, kDescriptorIndirect, 0}})},
      {"IndirectEmpty", true, raw({{0x1000, 0, kDescriptorIndirect, 0}})},
      {"IndirectLoop", true, indirect({{0x1000, 16, kNext, 0}})},
      {"IndirectNextPastItsEnd", true, indirect({{0x1000, 16, kNext, 1}})},
  };
}

}  // namespace ferrite
