// A polling driver for virtio over MMIO, version 2, split queues (virtio 1.2, 2.7 and 4.2).
#ifndef FERRITE_TESTS_GUEST_RUNTIME_VIRTIO_H_
#define FERRITE_TESTS_GUEST_RUNTIME_VIRTIO_H_

#include <cstdint>

namespace guest {

inline constexpr uint32_t kVirtioBlock = 2;
inline constexpr uint32_t kVirtioEntropy = 4;
inline constexpr uint32_t kVirtioBalloon = 5;

inline constexpr uint64_t kVirtioVersion1 = uint64_t{1} << 32;

struct Segment {
  const volatile void* data;
  uint32_t bytes;
  bool device_writes;
};

// One queue; chains of at most kMaxSegments, of which each has its own descriptors, so that a chain's number is all
// that has to be kept.
class VirtioQueue {
 public:
  static constexpr uint32_t kChains = 8;
  static constexpr uint32_t kMaxSegments = 8;

  // Takes the memory and tells the device of it; before DRIVER_OK.
  void Start(uint64_t base, uint32_t index);

  // Makes chain number `chain` (0 to kChains - 1; not in flight) available and rings the doorbell.
  void Add(uint32_t chain, const Segment* segments, uint32_t count);

  struct Used {
    bool any;
    uint32_t chain;
    uint32_t written;
  };
  // The next chain that came back.
  Used Poll();
  // Waits for it; there is one in flight.
  Used Wait();

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  struct UsedElement {
    uint32_t id;
    uint32_t length;
  };
  struct Available {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[kChains * kMaxSegments];
    uint16_t used_event;
  };
  struct UsedRing {
    uint16_t flags;
    uint16_t index;
    UsedElement ring[kChains * kMaxSegments];
    uint16_t available_event;
  };

  uint64_t base_ = 0;
  uint32_t index_ = 0;
  volatile Descriptor* descriptors_ = nullptr;
  volatile Available* available_ = nullptr;
  volatile UsedRing* used_ = nullptr;
  uint16_t seen_ = 0;
};

class VirtioDevice {
 public:
  // Finds the device number `nth` of the kind, resets it and agrees on those of `features` that it has (VERSION_1 is
  // added). False when there is none.
  bool Open(uint32_t kind, uint32_t nth, uint64_t features);
  bool Has(uint64_t feature) const { return (features_ & feature) != 0; }
  // After the queues were started: DRIVER_OK.
  void Ready();

  uint64_t base() const { return base_; }
  // Whether the device says that it cannot go on.
  bool NeedsReset() const;
  uint32_t ReadConfig32(uint32_t offset) const;
  uint64_t ReadConfig64(uint32_t offset) const;
  void WriteConfig32(uint32_t offset, uint32_t value);

 private:
  uint64_t base_ = 0;
  uint64_t features_ = 0;
};

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_VIRTIO_H_
