// The device's side of a split virtqueue (virtio 1.2 §2.7), over guest memory.
#ifndef FERRITE_DEVICES_VIRTIO_QUEUE_H_
#define FERRITE_DEVICES_VIRTIO_QUEUE_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/guest_address.h"
#include "memory/guest_memory.h"

namespace ferrite::virtio {

// VIRTQ_DESC_F_*, VIRTQ_USED_F_NO_NOTIFY and VIRTQ_AVAIL_F_NO_INTERRUPT.
inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;
inline constexpr uint16_t kUsedNoNotify = 1;
inline constexpr uint16_t kAvailableNoInterrupt = 1;

// The largest queue of the specification, and the most bytes that one chain may describe.
inline constexpr uint16_t kMaxQueueSize = 32768;
inline constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;

// struct virtq_desc.
struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

// Where a queue is, as the driver wrote it into the transport's registers.
struct QueueAddresses {
  uint16_t size = 0;
  GuestAddress descriptors;
  GuestAddress available;
  GuestAddress used;
};

// What a driver made available: memory for the device to read, then memory for it to write. All of it is inside of RAM,
// at host addresses that stay valid as long as the GuestMemory; what is in it may change at any time, so a header is
// copied out (Read) before it is looked at. Move-only: a chain goes back to the driver once, with Queue::Push(head()).
class Chain {
 public:
  struct WritableSegment {
    GuestAddress address;
    // Writing through it does not count as written: call MarkWritten() once it has happened.
    std::span<uint8_t> bytes;
  };

  Chain(Chain&&) = default;
  Chain& operator=(Chain&&) = default;

  uint16_t head() const { return head_; }
  std::span<const std::span<const uint8_t>> readable() const { return readable_; }
  std::span<const WritableSegment> writable() const { return writable_; }
  uint64_t readable_bytes() const { return readable_bytes_; }
  uint64_t writable_bytes() const { return writable_bytes_; }

  // Copies `out.size()` bytes from `offset` of the readable part, whatever its framing. OUT_OF_RANGE when it is
  // shorter; nothing was copied then.
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const;
  // Copies `in` to `offset` of the writable part and marks the pages written. OUT_OF_RANGE as above.
  absl::Status Write(uint64_t offset, std::span<const uint8_t> in) const;
  // Notes that [offset, offset + bytes) of the writable part was written through its spans (a disk read that has
  // landed). The range lies inside.
  void MarkWritten(uint64_t offset, uint64_t bytes) const;

 private:
  friend class Queue;
  Chain(GuestMemory& memory, uint16_t head) : memory_(&memory), head_(head) {}

  GuestMemory* memory_;
  uint16_t head_;
  uint64_t readable_bytes_ = 0;
  uint64_t writable_bytes_ = 0;
  absl::InlinedVector<std::span<const uint8_t>, 4> readable_;
  absl::InlinedVector<WritableSegment, 4> writable_;
};

// Threads: one at a time (the device's mutex, devices/virtio/device.h). The driver in the guest works on the same rings
// meanwhile; the order of accesses is that of §2.7.13 and §2.7.14.
//
// Errors: whatever the driver may have put into the rings is a Status (INVALID_ARGUMENT, or OUT_OF_RANGE for memory
// outside of RAM) that names what is wrong; the queue cannot go on then until it is reset, and the caller hands the
// error to Transport::Fail().
class Queue {
 public:
  // `memory` outlives the queue. `max_size` is a power of two, at most kMaxQueueSize.
  Queue(GuestMemory& memory, uint16_t max_size);

  uint16_t max_size() const { return max_size_; }
  bool enabled() const { return enabled_; }
  const QueueAddresses& addresses() const { return addresses_; }

  // Whether Enable() would take `addresses`: the size a power of two from 1 to max_size(), the rings aligned (16, 2 and
  // 4 bytes) and inside of RAM, each in one region.
  absl::Status Check(const QueueAddresses& addresses) const;
  // Starts the queue with both indexes at zero; `event_index` and `indirect` say whether those features were
  // negotiated.
  absl::Status Enable(const QueueAddresses& addresses, bool event_index, bool indirect);
  // Stops it and forgets everything. No chain may be in flight any more.
  void Disable();

  // The next chain that the driver made available; nothing when there is none, or the queue is not enabled. Bounds: at
  // most size() segments in a chain, size() chains in flight, kMaxChainBytes in all.
  absl::StatusOr<std::optional<Chain>> Pop();
  // Undoes the last Pop() that returned a chain, which has not been pushed: the chain is the next one again. Whatever
  // was done for it is done anew, unless the device knows better.
  void PutBack();
  // Gives the chain back; `written` is how many bytes of its writable part were written, from its start. Every chain is
  // given back once.
  void Push(uint16_t head, uint64_t written);
  // Chains popped and not pushed.
  uint16_t in_flight() const { return next_available_ - next_used_; }
  uint16_t size() const { return addresses_.size; }

  // Whether the driver wants an interrupt for what was pushed since the last time that this was true (§2.7.7). Call it
  // once after a batch of Push().
  bool TakeInterruptNeeded();

  // Tells the driver that doorbells are not needed while the device works on the queue. A hint: some may still come.
  void DisableNotifications();
  // Asks for a doorbell for the next chain, and returns whether chains were made available before the driver could see
  // that: true means look again.
  bool EnableNotifications();

  // What of the queue's state is not in the guest's memory, to be saved and, after Enable(), loaded.
  struct Progress {
    uint16_t next_available = 0;
    uint16_t next_used = 0;
    uint16_t signalled_used = 0;
    bool signalled_used_valid = false;
  };
  Progress progress() const;
  static absl::Status CheckProgress(uint16_t size, const Progress& progress);
  void LoadProgress(const Progress& progress);

 private:
  absl::Status AddSegment(Chain& chain, const Descriptor& descriptor) const;
  absl::Status Walk(Chain& chain, std::span<const uint8_t> table, uint32_t entries, uint32_t first,
                    bool in_indirect) const;
  void StoreUsedField(uint64_t offset, uint16_t value);
  // Runs `touch` on the rings; when they lie in a page that is lost, the next Pop() says so.
  void TouchRing(absl::FunctionRef<void()> touch);
  uint64_t used_event_offset() const { return 4 + 2 * uint64_t{size()}; }
  uint64_t available_event_offset() const { return 4 + 8 * uint64_t{size()}; }

  GuestMemory& memory_;
  const uint16_t max_size_;
  bool enabled_ = false;
  bool event_index_ = false;
  bool indirect_ = false;
  absl::Status ring_status_;
  QueueAddresses addresses_;
  std::span<uint8_t> descriptors_;
  std::span<uint8_t> available_;
  std::span<uint8_t> used_;
  // Free-running, as in the rings.
  uint16_t next_available_ = 0;
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;
  bool signalled_used_valid_ = false;
};

}  // namespace ferrite::virtio

#endif  // FERRITE_DEVICES_VIRTIO_QUEUE_H_
