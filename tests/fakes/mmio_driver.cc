#include "tests/fakes/mmio_driver.h"

namespace ferrite {
namespace {

constexpr uint64_t kDeviceFeatures = 0x010;
constexpr uint64_t kDeviceFeaturesSelect = 0x014;
constexpr uint64_t kDriverFeatures = 0x020;
constexpr uint64_t kDriverFeaturesSelect = 0x024;
constexpr uint64_t kQueueSize = 0x038;
constexpr uint64_t kQueueDescriptors = 0x080;
constexpr uint64_t kQueueAvailable = 0x090;
constexpr uint64_t kQueueUsed = 0x0a0;

}  // namespace

uint32_t MmioDriver::Read(uint64_t offset) const {
  uint32_t value = 0;
  registers_.Read(offset, {reinterpret_cast<uint8_t*>(&value), sizeof(value)});
  return value;
}

void MmioDriver::Write(uint64_t offset, uint32_t value) const {
  registers_.Write(offset, {reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
}

uint64_t MmioDriver::OfferedFeatures() const {
  Write(kDeviceFeaturesSelect, 0);
  const uint64_t low = Read(kDeviceFeatures);
  Write(kDeviceFeaturesSelect, 1);
  return low | (uint64_t{Read(kDeviceFeatures)} << 32);
}

bool MmioDriver::Negotiate(uint64_t features) const {
  Write(kMmioStatus, kStatusAcknowledge);
  Write(kMmioStatus, kStatusAcknowledge | kStatusDriver);
  Write(kDriverFeaturesSelect, 0);
  Write(kDriverFeatures, static_cast<uint32_t>(features));
  Write(kDriverFeaturesSelect, 1);
  Write(kDriverFeatures, static_cast<uint32_t>(features >> 32));
  Write(kMmioStatus, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  return (status() & kStatusFeaturesOk) != 0;
}

bool MmioDriver::SetUpQueue(uint32_t index, const virtio::QueueAddresses& addresses) const {
  const auto write64 = [this](uint64_t offset, GuestAddress address) {
    Write(offset, static_cast<uint32_t>(address.value()));
    Write(offset + 4, static_cast<uint32_t>(address.value() >> 32));
  };
  Write(kMmioQueueSelect, index);
  Write(kQueueSize, addresses.size);
  write64(kQueueDescriptors, addresses.descriptors);
  write64(kQueueAvailable, addresses.available);
  write64(kQueueUsed, addresses.used);
  Write(kMmioQueueReady, 1);
  return Read(kMmioQueueReady) == 1;
}

uint32_t MmioDriver::TakeInterruptStatus() const {
  const uint32_t reasons = Read(kMmioInterruptStatus);
  Write(kMmioInterruptAcknowledge, reasons);
  return reasons;
}

}  // namespace ferrite
