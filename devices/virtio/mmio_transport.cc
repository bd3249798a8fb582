#include "devices/virtio/mmio_transport.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "devices/virtio/driver_status.h"

namespace ferrite::virtio {
namespace {

// §4.2.2. What is only written reads as all ones, like a register that is not there.
enum Register : uint64_t {
  kMagicValue = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSelect = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSelect = 0x024,
  kQueueSelect = 0x030,
  kQueueSizeMax = 0x034,
  kQueueSize = 0x038,
  kQueueReady = 0x044,
  kInterruptStatus = 0x060,
  kInterruptAcknowledge = 0x064,
  kStatus = 0x070,
  kQueueDescriptorsLow = 0x080,
  kQueueDescriptorsHigh = 0x084,
  kQueueAvailableLow = 0x090,
  kQueueAvailableHigh = 0x094,
  kQueueUsedLow = 0x0a0,
  kQueueUsedHigh = 0x0a4,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVendor = 0x45465246;  // "FRFE"

// The guest can reset and fail a device as often as it likes.
constexpr uint32_t kMaxFailuresLogged = 8;

constexpr absl::Duration kScarcePause = absl::Milliseconds(10);

void SetLow(GuestAddress& address, uint32_t value) {
  address = GuestAddress((address.value() & ~uint64_t{0xffff'ffff}) | value);
}
void SetHigh(GuestAddress& address, uint32_t value) {
  address = GuestAddress((address.value() & 0xffff'ffff) | (uint64_t{value} << 32));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MmioTransport>> MmioTransport::Create(std::unique_ptr<virtio::Device> device,
                                                                     GuestMemory& memory, InterruptLine& interrupt,
                                                                     EventLoop& loop) {
  std::vector<EventFd> doorbells;
  for (size_t i = 0; i < device->queue_sizes().size(); ++i) {
    FERRITE_ASSIGN_OR_RETURN(EventFd doorbell, EventFd::Create());
    doorbells.push_back(std::move(doorbell));
  }
  auto transport =
      std::unique_ptr<MmioTransport>(new MmioTransport(std::move(device), memory, interrupt, std::move(doorbells)));
  transport->device_.Attach(transport.get());
  for (uint16_t i = 0; i < transport->doorbells_.size(); ++i) {
    FERRITE_ASSIGN_OR_RETURN(auto watch,
                             loop.WatchReadable(transport->doorbells_[i].fd(),
                                                [transport = transport.get(), i] { transport->HandleDoorbell(i); }));
    transport->watches_.push_back(std::move(watch));
  }
  return transport;
}

MmioTransport::MmioTransport(std::unique_ptr<virtio::Device> device, GuestMemory& memory, InterruptLine& interrupt,
                             std::vector<EventFd> doorbells)
    : owned_device_(std::move(device)),
      device_(*owned_device_),
      memory_(memory),
      interrupt_(interrupt),
      doorbells_(std::move(doorbells)) {
  for (const uint16_t size : device_.queue_sizes()) {
    queues_.push_back({Queue(memory_, size), {}});
  }
}

MmioTransport::~MmioTransport() = default;

void MmioTransport::Read(uint64_t offset, std::span<uint8_t> data) {
  virtio::Device::Lock lock(&device_);
  if (offset >= kConfig) {
    device_.ReadConfig(offset - kConfig, data);
    return;
  }
  if (data.size() != 4 || offset % 4 != 0) {
    std::memset(data.data(), 0xff, data.size());
    return;
  }
  const uint32_t value = ReadRegister(offset);
  std::memcpy(data.data(), &value, sizeof(value));
}

void MmioTransport::Write(uint64_t offset, std::span<const uint8_t> data) {
  uint32_t value = 0;
  const bool is_register = data.size() == sizeof(value) && offset % 4 == 0 && offset < kConfig;
  if (is_register) {
    std::memcpy(&value, data.data(), sizeof(value));
    if (offset == kQueueNotifyOffset) {
      if (value < doorbells_.size()) {
        doorbells_[value].Signal();
      }
      return;
    }
  }
  virtio::Device::Lock lock(&device_);
  // Another vCPU is in the middle of a reset.
  device_.mutex().Await(absl::Condition(&drained_));
  // It would end the process on this thread, which is a vCPU's. Only words about a mistake of the driver take memory.
  IfThereIsMemory([&] {
    device_.mutex().AssertHeld();
    if (is_register) {
      WriteRegister(offset, value);
    } else if (offset >= kConfig) {
      device_.WriteConfig(offset - kConfig, data);
    }
  });
}

uint32_t MmioTransport::ReadRegister(uint64_t offset) const {
  switch (offset) {
    case kMagicValue:
      return kMagic;
    case kVersion:
      return 2;
    case kDeviceId:
      return device_.device_id();
    case kVendorId:
      return kVendor;
    case kDeviceFeatures:
      return device_features_select_ < 2 ? static_cast<uint32_t>(offered_features() >> (32 * device_features_select_))
                                         : 0;
    case kQueueSizeMax:
      return queue_select_ < queues_.size() ? queues_[queue_select_].queue.max_size() : 0;
    case kQueueReady:
      return queue_select_ < queues_.size() && queues_[queue_select_].queue.enabled() ? 1 : 0;
    case kInterruptStatus:
      return interrupt_status_;
    case kStatus:
      return status_;
    case kConfigGeneration:
      return config_generation_;
    default:
      return 0xffff'ffff;
  }
}

void MmioTransport::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case kDeviceFeaturesSelect:
      device_features_select_ = value;
      return;
    case kDriverFeaturesSelect:
      driver_features_select_ = value;
      return;
    case kDriverFeatures:
      // Fixed once FEATURES_OK is set (§2.2.1).
      if ((status_ & kFeaturesOk) == 0 && driver_features_select_ < 2) {
        const uint32_t shift = 32 * driver_features_select_;
        driver_features_ = (driver_features_ & ~(uint64_t{0xffff'ffff} << shift)) | (uint64_t{value} << shift);
      }
      return;
    case kQueueSelect:
      queue_select_ = value;
      return;
    case kInterruptAcknowledge:
      interrupt_status_ &= ~value;
      return;
    case kStatus:
      WriteStatus(value);
      return;
    default:
      WriteQueueRegister(offset, value);
  }
}

void MmioTransport::WriteQueueRegister(uint64_t offset, uint32_t value) {
  if (queue_select_ >= queues_.size()) {
    return;
  }
  if (offset == kQueueReady) {
    WriteQueueReady(static_cast<uint16_t>(queue_select_), value);
    return;
  }
  QueueSlot& slot = queues_[queue_select_];
  if (slot.queue.enabled()) {
    return;  // §4.2.2.2: not to be changed then
  }
  switch (offset) {
    case kQueueSize:
      // Too large stays too large: QueueReady refuses it.
      slot.setup.size = static_cast<uint16_t>(std::min<uint32_t>(value, 0xffff));
      return;
    case kQueueDescriptorsLow:
      return SetLow(slot.setup.descriptors, value);
    case kQueueDescriptorsHigh:
      return SetHigh(slot.setup.descriptors, value);
    case kQueueAvailableLow:
      return SetLow(slot.setup.available, value);
    case kQueueAvailableHigh:
      return SetHigh(slot.setup.available, value);
    case kQueueUsedLow:
      return SetLow(slot.setup.used, value);
    case kQueueUsedHigh:
      return SetHigh(slot.setup.used, value);
    default:
      return;
  }
}

void MmioTransport::WriteQueueReady(uint16_t index, uint32_t value) {
  QueueSlot& slot = queues_[index];
  const bool enable = (value & 1) != 0;
  if (enable == slot.queue.enabled()) {
    return;
  }
  if (!enable) {
    DrainLocked();
    device_.ResetQueue(index);
    slot.queue.Disable();
    RingEnabledQueues();  // doorbells of the others that came while draining
    return;
  }
  if ((status_ & kFeaturesOk) == 0) {
    return;  // §3.1.1: features first; reads back as not ready
  }
  absl::Status status = slot.queue.Enable(slot.setup, (driver_features_ & kFeatureEventIndex) != 0,
                                          (driver_features_ & kFeatureIndirectDescriptors) != 0);
  if (!status.ok()) {
    FailQueue(index, status);
  }
}

void MmioTransport::WriteStatus(uint32_t value) {
  if (value == 0) {
    DrainLocked();
    ResetLocked();
    return;
  }
  const uint32_t before = status_;
  status_ = StatusAfterWrite(before, value, driver_features_, offered_features());
  if ((status_ & ~before & kDriverOk) != 0) {
    device_.Activate(driver_features_);
    RingEnabledQueues();
    if ((status_ & kNeedsReset) != 0) {
      Interrupt(kInterruptConfig);
    }
  }
}

bool MmioTransport::active() const {
  return running_ && drained_ && (status_ & (kDriverOk | kNeedsReset | kFailed)) == kDriverOk;
}

// On the loop's thread.
void MmioTransport::HandleDoorbell(uint16_t index) {
  doorbells_[index].Drain();
  const auto process = [&] {
    ProcessQueue(index);
    return absl::OkStatus();
  };
  if (!CatchOutOfMemory(process).ok()) {
    // What was taken and not begun is in the queue again. The loop gets to the others meanwhile.
    absl::SleepFor(kScarcePause);
    RingDoorbell(index);
  }
}

void MmioTransport::ProcessQueue(uint16_t index) {
  // After everybody else who waits: a guest that keeps its queue full holds up neither its own vCPUs nor a pause.
  absl::MutexLock lock(&device_.mutex());
  device_.mutex().Await(absl::Condition(
      +[](virtio::Device* device) { return device->waiting() == 0; }, &device_));
  Queue& queue = queues_[index].queue;
  // A doorbell that is dropped here is not lost: Resume(), DRIVER_OK and the end of a drain look at every queue.
  if (!active() || !queue.enabled()) {
    return;
  }
  queue.DisableNotifications();
  if (absl::Status status = device_.ProcessQueue(index); !status.ok()) {
    FailQueue(index, status);
    return;
  }
  // One that is full looks again by itself, so until then the driver need not ring.
  if (device_.TakesMore(index) && queue.EnableNotifications()) {
    RingDoorbell(index);
  }
}

void MmioTransport::RingEnabledQueues() {
  for (uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].queue.enabled()) {
      RingDoorbell(i);
    }
  }
}

void MmioTransport::Interrupt(uint32_t reason) {
  interrupt_status_ |= reason;
  if (running_) {
    interrupt_.Trigger();
  }
}

Queue& MmioTransport::queue(uint16_t index) {
  device_.mutex().AssertHeld();
  FERRITE_CHECK(index < queues_.size());
  return queues_[index].queue;
}

void MmioTransport::NotifyUsed(uint16_t index) {
  device_.mutex().AssertHeld();
  if (queue(index).TakeInterruptNeeded()) {
    Interrupt(kInterruptUsed);
  }
}

void MmioTransport::NotifyConfigChange() {
  device_.mutex().AssertHeld();
  ++config_generation_;
  if ((status_ & kDriverOk) != 0) {
    Interrupt(kInterruptConfig);
  }
}

void MmioTransport::Fail(const absl::Status& status) {
  device_.mutex().AssertHeld();
  if ((status_ & kNeedsReset) != 0) {
    return;
  }
  if (failures_logged_ < kMaxFailuresLogged) {
    ++failures_logged_;
    IfThereIsMemory([&] {
      device_.mutex().AssertHeld();
      Log().warn("{}: {}; the device stops until the guest resets it{}", std::string(name()),
                 std::string(status.message()),
                 failures_logged_ == kMaxFailuresLogged ? " (more such failures are not logged)" : "");
    });
  }
  status_ |= kNeedsReset;
  if ((status_ & kDriverOk) != 0) {
    Interrupt(kInterruptConfig);
  }
}

void MmioTransport::FailQueue(uint16_t index, const absl::Status& status) {
  absl::Status annotated = status;
  IfThereIsMemory([&] { annotated = Annotate(status, absl::StrCat("queue ", index)); });
  Fail(annotated);
}

void MmioTransport::DrainLocked() {
  drained_ = false;
  device_.Drain();
  drained_ = true;
}

void MmioTransport::ResetLocked() {
  device_.Reset();
  for (QueueSlot& slot : queues_) {
    slot.queue.Disable();
    slot.setup = {};
  }
  status_ = 0;
  driver_features_ = 0;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  interrupt_status_ = 0;
}

void MmioTransport::Quiesce() {
  virtio::Device::Lock lock(&device_);
  running_ = false;
  // A vCPU that runs on may be in the middle of a reset.
  device_.mutex().Await(absl::Condition(&drained_));
  DrainLocked();
}

void MmioTransport::Arrived() {
  virtio::Device::Lock lock(&device_);
  device_.Arrived();
}

void MmioTransport::Resume() {
  virtio::Device::Lock lock(&device_);
  running_ = true;
  RingEnabledQueues();
  if (interrupt_status_ != 0) {
    interrupt_.Trigger();
  }
}

void MmioTransport::Reset() {
  virtio::Device::Lock lock(&device_);
  ResetLocked();
}

}  // namespace ferrite::virtio
