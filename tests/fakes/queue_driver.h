// The driver's side of a split virtqueue, for tests: honest when used as meant, hostile when asked to.
#ifndef FERRITE_TESTS_FAKES_QUEUE_DRIVER_H_
#define FERRITE_TESTS_FAKES_QUEUE_DRIVER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "devices/virtio/queue.h"
#include "memory/guest_memory.h"

namespace ferrite {

// Hands out guest memory from [start, end), never to take it back. The caller makes sure that it is RAM.
class GuestArena {
 public:
  GuestArena(GuestMemory& memory, GuestAddress start, GuestAddress end) : memory_(memory), next_(start), end_(end) {}

  GuestMemory& memory() { return memory_; }
  // Zeroed memory; aborts the test when there is none left.
  GuestAddress Allocate(uint64_t bytes, uint64_t alignment = 16);
  // The same, filled with `content`.
  GuestAddress Place(std::span<const uint8_t> content, uint64_t alignment = 16);
  std::vector<uint8_t> Read(GuestAddress address, uint64_t bytes) const;

 private:
  GuestMemory& memory_;
  GuestAddress next_;
  const GuestAddress end_;
};

class ChainBuilder;

// Threads: one. The device may work on the rings from another.
class QueueDriver {
 public:
  struct Used {
    uint16_t head;
    uint32_t written;
    bool operator==(const Used&) const = default;
  };

  // Rings of `size` from the arena. With `event_index` it keeps used_event and reads avail_event.
  QueueDriver(GuestArena& arena, uint16_t size, bool event_index = false);

  uint16_t size() const { return addresses_.size; }
  const virtio::QueueAddresses& addresses() const { return addresses_; }
  GuestArena& arena() { return arena_; }

  // A chain to fill and Submit().
  ChainBuilder Chain();

  // What the device has given back, oldest first.
  std::optional<Used> TakeUsed();
  bool HasUsed() const { return used_index() != seen_used_; }
  // The device's index, free-running.
  uint16_t used_index() const;
  // Whether the driver has to ring the doorbell after it made `added` chains available last.
  bool NeedsKick(uint16_t added = 1) const;
  // Asks for an interrupt or not: the flag without the event index, used_event with it.
  void DisableInterrupts();
  void EnableInterrupts() { SetUsedEvent(seen_used_); }
  // With the event index: an interrupt when the device's index passes `index`.
  void SetUsedEvent(uint16_t index);

  // The raw rings, for chains that no driver would build.
  void WriteDescriptor(uint16_t index, const virtio::Descriptor& descriptor);
  void MakeAvailable(uint16_t head);
  void SetAvailableIndex(uint16_t index);
  uint16_t available_index() const { return available_index_; }

 private:
  friend class ChainBuilder;
  uint16_t AllocateDescriptor();

  GuestArena& arena_;
  const bool event_index_;
  virtio::QueueAddresses addresses_;
  std::vector<uint16_t> free_;
  std::vector<std::vector<uint16_t>> chains_;  // by head: the descriptors it took
  uint16_t available_index_ = 0;
  uint16_t seen_used_ = 0;
};

// Collects segments; nothing of it is seen by the device before Submit().
class ChainBuilder {
 public:
  explicit ChainBuilder(QueueDriver& driver) : driver_(driver) {}

  // Memory that the device reads, with this content.
  ChainBuilder& Readable(std::span<const uint8_t> content);
  template <typename T>
  ChainBuilder& ReadableObject(const T& object) {
    return Readable({reinterpret_cast<const uint8_t*>(&object), sizeof(T)});
  }
  // Memory that the device writes; `*where` is its address.
  ChainBuilder& Writable(uint32_t bytes, GuestAddress* where = nullptr);
  // Any address, any length, RAM or not.
  ChainBuilder& ReadableAt(GuestAddress address, uint32_t bytes);
  ChainBuilder& WritableAt(GuestAddress address, uint32_t bytes);

  // Puts the chain into the descriptor table and makes it available; returns its head.
  uint16_t Submit();
  // The same with one descriptor that refers to an indirect table.
  uint16_t SubmitIndirect();

 private:
  QueueDriver& driver_;
  std::vector<virtio::Descriptor> segments_;
};

// A chain or an index that breaks the rules of §2.7; every device has to refuse it with DEVICE_NEEDS_RESET and live on.
struct HostileChain {
  std::string name;  // letters only: a test parameter's name
  // Whether VIRTIO_F_INDIRECT_DESC is negotiated.
  bool indirect;
  std::function<void(QueueDriver&)> submit;
};
// The queue has 4 descriptors at least, and nothing is in flight.
std::vector<HostileChain> HostileChains();

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_QUEUE_DRIVER_H_
