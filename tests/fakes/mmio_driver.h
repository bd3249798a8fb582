// A driver that speaks to a virtio-mmio transport through its registers.
#ifndef FERRITE_TESTS_FAKES_MMIO_DRIVER_H_
#define FERRITE_TESTS_FAKES_MMIO_DRIVER_H_

#include <cstdint>

#include "devices/bus/device.h"
#include "devices/virtio/queue.h"

namespace ferrite {

// The registers (virtio 1.2 §4.2.2) that tests touch by offset.
inline constexpr uint64_t kMmioQueueSelect = 0x030;
inline constexpr uint64_t kMmioQueueSizeMax = 0x034;
inline constexpr uint64_t kMmioQueueReady = 0x044;
inline constexpr uint64_t kMmioQueueNotify = 0x050;
inline constexpr uint64_t kMmioInterruptStatus = 0x060;
inline constexpr uint64_t kMmioInterruptAcknowledge = 0x064;
inline constexpr uint64_t kMmioStatus = 0x070;
inline constexpr uint64_t kMmioConfigGeneration = 0x0fc;
inline constexpr uint64_t kMmioConfig = 0x100;

// Device status bits (§2.1).
inline constexpr uint32_t kStatusAcknowledge = 1;
inline constexpr uint32_t kStatusDriver = 2;
inline constexpr uint32_t kStatusDriverOk = 4;
inline constexpr uint32_t kStatusFeaturesOk = 8;
inline constexpr uint32_t kStatusNeedsReset = 64;

inline constexpr uint32_t kInterruptUsedBuffer = 1;
inline constexpr uint32_t kInterruptConfigChange = 2;

// Threads: one, which plays the vCPU.
class MmioDriver {
 public:
  explicit MmioDriver(IoDevice& registers) : registers_(registers) {}

  uint32_t Read(uint64_t offset) const;
  void Write(uint64_t offset, uint32_t value) const;
  template <typename T>
  T ReadConfig(uint64_t offset) const {
    T value;
    registers_.Read(kMmioConfig + offset, {reinterpret_cast<uint8_t*>(&value), sizeof(T)});
    return value;
  }
  template <typename T>
  void WriteConfig(uint64_t offset, T value) const {
    registers_.Write(kMmioConfig + offset, {reinterpret_cast<const uint8_t*>(&value), sizeof(T)});
  }

  uint32_t status() const { return Read(kMmioStatus); }
  bool needs_reset() const { return (status() & kStatusNeedsReset) != 0; }
  uint64_t OfferedFeatures() const;

  // §3.1.1 in steps: Reset, then ACKNOWLEDGE and DRIVER, the features and FEATURES_OK (false when refused), the queues,
  // DRIVER_OK.
  void Reset() const { Write(kMmioStatus, 0); }
  bool Negotiate(uint64_t features) const;
  // Returns what QueueReady reads back.
  bool SetUpQueue(uint32_t index, const virtio::QueueAddresses& addresses) const;
  void SetDriverOk() const { Write(kMmioStatus, status() | kStatusDriverOk); }

  void Notify(uint32_t queue) const { Write(kMmioQueueNotify, queue); }
  // What an interrupt handler does first: reads the reasons and acknowledges them.
  uint32_t TakeInterruptStatus() const;

 private:
  IoDevice& registers_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_MMIO_DRIVER_H_
