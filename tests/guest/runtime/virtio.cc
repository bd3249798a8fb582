#include "tests/guest/runtime/virtio.h"

#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/platform.h"

namespace guest {
namespace {

// Registers (virtio 1.2, 4.2.2).
constexpr uint64_t kVersion = 0x004;
constexpr uint64_t kDeviceId = 0x008;
constexpr uint64_t kDeviceFeatures = 0x010;
constexpr uint64_t kDeviceFeaturesSelect = 0x014;
constexpr uint64_t kDriverFeatures = 0x020;
constexpr uint64_t kDriverFeaturesSelect = 0x024;
constexpr uint64_t kQueueSelect = 0x030;
constexpr uint64_t kQueueSizeMax = 0x034;
constexpr uint64_t kQueueSize = 0x038;
constexpr uint64_t kQueueReady = 0x044;
constexpr uint64_t kQueueNotify = 0x050;
constexpr uint64_t kStatus = 0x070;
constexpr uint64_t kQueueDescriptors = 0x080;
constexpr uint64_t kQueueDriver = 0x090;
constexpr uint64_t kQueueDevice = 0x0a0;
constexpr uint64_t kConfigGeneration = 0x0fc;
constexpr uint64_t kConfig = 0x100;

constexpr uint32_t kAcknowledge = 1;
constexpr uint32_t kDriver = 2;
constexpr uint32_t kDriverOk = 4;
constexpr uint32_t kFeaturesOk = 8;
constexpr uint32_t kDeviceNeedsReset = 64;

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kNoInterrupt = 1;

uint64_t AddressOf(const volatile void* data) { return reinterpret_cast<uint64_t>(data); }

void WriteAddress(uint64_t reg, const volatile void* data) {
  WriteMmio<uint32_t>(reg, static_cast<uint32_t>(AddressOf(data)));
  WriteMmio<uint32_t>(reg + 4, static_cast<uint32_t>(AddressOf(data) >> 32));
}

}  // namespace

void VirtioQueue::Start(uint64_t base, uint32_t index) {
  base_ = base;
  index_ = index;
  WriteMmio<uint32_t>(base + kQueueSelect, index);
  constexpr uint32_t kSize = kChains * kMaxSegments;
  if (const uint32_t most = ReadMmio<uint32_t>(base + kQueueSizeMax); most < kSize) {
    Fail("queue-is-too-small", most);
  }
  static_assert(sizeof(Descriptor) * kSize <= kPageBytes);
  static_assert(sizeof(Available) + sizeof(UsedRing) + 4 <= kPageBytes);
  auto* memory = static_cast<uint8_t*>(TakePages(2));
  descriptors_ = reinterpret_cast<volatile Descriptor*>(memory);
  available_ = reinterpret_cast<volatile Available*>(memory + kPageBytes);
  used_ = reinterpret_cast<volatile UsedRing*>(memory + kPageBytes + ((sizeof(Available) + 3) & ~uint64_t{3}));
  available_->flags = kNoInterrupt;
  WriteMmio<uint32_t>(base + kQueueSize, kSize);
  WriteAddress(base + kQueueDescriptors, descriptors_);
  WriteAddress(base + kQueueDriver, available_);
  WriteAddress(base + kQueueDevice, used_);
  WriteMmio<uint32_t>(base + kQueueReady, 1);
}

void VirtioQueue::Add(uint32_t chain, const Segment* segments, uint32_t count) {
  const uint32_t head = chain * kMaxSegments;
  for (uint32_t i = 0; i < count; ++i) {
    volatile Descriptor& descriptor = descriptors_[head + i];
    descriptor.address = AddressOf(segments[i].data);
    descriptor.length = segments[i].bytes;
    descriptor.flags = static_cast<uint16_t>((i + 1 < count ? kNext : 0) | (segments[i].device_writes ? kWrite : 0));
    descriptor.next = static_cast<uint16_t>(head + i + 1);
  }
  const uint16_t index = available_->index;
  available_->ring[index % (kChains * kMaxSegments)] = static_cast<uint16_t>(head);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  available_->index = static_cast<uint16_t>(index + 1);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  WriteMmio<uint32_t>(base_ + kQueueNotify, index_);
}

VirtioQueue::Used VirtioQueue::Poll() {
  if (used_->index == seen_) {
    return {};
  }
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  const volatile UsedElement& element = used_->ring[seen_ % (kChains * kMaxSegments)];
  ++seen_;
  return {.any = true, .chain = element.id / kMaxSegments, .written = element.length};
}

VirtioQueue::Used VirtioQueue::Wait() {
  for (;;) {
    if (const Used used = Poll(); used.any) {
      return used;
    }
    ThisCpu().Heartbeat();
    Relax();
  }
}

bool VirtioDevice::Open(uint32_t kind, uint32_t nth, uint64_t features) {
  for (const uint32_t base : VirtioMmioBases()) {
    if (ReadMmio<uint32_t>(base + kDeviceId) == kind && nth-- == 0) {
      base_ = base;
      break;
    }
  }
  if (base_ == 0) {
    return false;
  }
  if (const uint32_t version = ReadMmio<uint32_t>(base_ + kVersion); version != 2) {
    Fail("virtio-mmio-version", version);
  }
  WriteMmio<uint32_t>(base_ + kStatus, 0);
  while (ReadMmio<uint32_t>(base_ + kStatus) != 0) {
    Relax();
  }
  WriteMmio<uint32_t>(base_ + kStatus, kAcknowledge);
  WriteMmio<uint32_t>(base_ + kStatus, kAcknowledge | kDriver);
  uint64_t offered = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    WriteMmio<uint32_t>(base_ + kDeviceFeaturesSelect, half);
    offered |= uint64_t{ReadMmio<uint32_t>(base_ + kDeviceFeatures)} << (32 * half);
  }
  features_ = offered & (features | kVirtioVersion1);
  for (uint32_t half = 0; half < 2; ++half) {
    WriteMmio<uint32_t>(base_ + kDriverFeaturesSelect, half);
    WriteMmio<uint32_t>(base_ + kDriverFeatures, static_cast<uint32_t>(features_ >> (32 * half)));
  }
  WriteMmio<uint32_t>(base_ + kStatus, kAcknowledge | kDriver | kFeaturesOk);
  if ((ReadMmio<uint32_t>(base_ + kStatus) & kFeaturesOk) == 0) {
    Fail("features-refused", features_);
  }
  return true;
}

void VirtioDevice::Ready() { WriteMmio<uint32_t>(base_ + kStatus, kAcknowledge | kDriver | kFeaturesOk | kDriverOk); }

bool VirtioDevice::NeedsReset() const { return (ReadMmio<uint32_t>(base_ + kStatus) & kDeviceNeedsReset) != 0; }

uint32_t VirtioDevice::ReadConfig32(uint32_t offset) const { return ReadMmio<uint32_t>(base_ + kConfig + offset); }

uint64_t VirtioDevice::ReadConfig64(uint32_t offset) const {
  for (;;) {
    const uint32_t before = ReadMmio<uint32_t>(base_ + kConfigGeneration);
    const uint64_t value = ReadConfig32(offset) | uint64_t{ReadConfig32(offset + 4)} << 32;
    if (ReadMmio<uint32_t>(base_ + kConfigGeneration) == before) {
      return value;
    }
  }
}

void VirtioDevice::WriteConfig32(uint32_t offset, uint32_t value) { WriteMmio(base_ + kConfig + offset, value); }

}  // namespace guest
