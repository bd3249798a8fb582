// The saved state of a device behind its registers.
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "devices/virtio/driver_status.h"
#include "devices/virtio/mmio_transport.h"

namespace ferrite::virtio {
namespace {

QueueAddresses AddressesOf(state::VirtioQueue::Reader in) {
  return {in.getSize(), GuestAddress(in.getDescriptors()), GuestAddress(in.getAvailable()), GuestAddress(in.getUsed())};
}

Queue::Progress ProgressOf(state::VirtioQueue::Reader in) {
  return {in.getNextAvailable(), in.getNextUsed(), in.getSignalledUsed(), in.getSignalledUsedValid()};
}

}  // namespace

void MmioTransport::Save(state::Device::Builder out) const {
  virtio::Device::Lock lock(&device_);
  out.setName(std::string(name()));
  out.setVersion(kStateVersion);
  auto mmio = out.initVirtioMmio();
  mmio.setDeviceId(device_.device_id());
  mmio.setStatus(status_);
  mmio.setDriverFeatures(driver_features_);
  mmio.setDeviceFeaturesSelect(device_features_select_);
  mmio.setDriverFeaturesSelect(driver_features_select_);
  mmio.setQueueSelect(queue_select_);
  mmio.setInterruptStatus(interrupt_status_);
  mmio.setConfigGeneration(config_generation_);
  auto queues = mmio.initQueues(queues_.size());
  for (size_t i = 0; i < queues_.size(); ++i) {
    const QueueSlot& slot = queues_[i];
    const Queue::Progress progress = slot.queue.progress();
    queues[i].setSize(slot.setup.size);
    queues[i].setReady(slot.queue.enabled());
    queues[i].setDescriptors(slot.setup.descriptors.value());
    queues[i].setAvailable(slot.setup.available.value());
    queues[i].setUsed(slot.setup.used.value());
    queues[i].setNextAvailable(progress.next_available);
    queues[i].setNextUsed(progress.next_used);
    queues[i].setSignalledUsed(progress.signalled_used);
    queues[i].setSignalledUsedValid(progress.signalled_used_valid);
  }
  device_.Save(mmio);
}

absl::Status MmioTransport::CheckState(state::Device::Reader in) const {
  virtio::Device::Lock lock(&device_);
  return Annotate(CheckStateLocked(in), name());
}

absl::Status MmioTransport::CheckStateLocked(state::Device::Reader in) const {
  if (!in.isVirtioMmio()) {
    return absl::InvalidArgumentError("the state is not that of a virtio-mmio device");
  }
  if (in.getVersion() == 0 || in.getVersion() > kStateVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("state version ", in.getVersion(), " is not known; the newest is ", kStateVersion));
  }
  const auto mmio = in.getVirtioMmio();
  if (mmio.getDeviceId() != device_.device_id()) {
    return absl::InvalidArgumentError(
        absl::StrCat("deviceId is ", mmio.getDeviceId(), ", this device's is ", device_.device_id()));
  }
  const uint32_t status = mmio.getStatus();
  if (!IsStatus(status)) {
    return absl::InvalidArgumentError(absl::StrCat("status 0x", absl::Hex(status), " is not one of a device"));
  }
  const bool features_ok = (status & kFeaturesOk) != 0;
  if (features_ok) {
    FERRITE_RETURN_IF_ERROR(CheckFeatures(mmio.getDriverFeatures(), offered_features()));
  }
  if ((mmio.getInterruptStatus() & ~(kInterruptUsed | kInterruptConfig)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("interruptStatus 0x", absl::Hex(mmio.getInterruptStatus()), " has bits that are not known"));
  }
  if (mmio.getQueues().size() != queues_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the state has ", mmio.getQueues().size(), " queues, this device ", queues_.size()));
  }
  for (size_t i = 0; i < queues_.size(); ++i) {
    const auto queue = mmio.getQueues()[i];
    if (!queue.getReady()) {
      continue;
    }
    if (!features_ok) {
      return absl::InvalidArgumentError(absl::StrCat("queue ", i, " is ready before FEATURES_OK"));
    }
    absl::Status checked = queues_[i].queue.Check(AddressesOf(queue));
    checked.Update(Queue::CheckProgress(queue.getSize(), ProgressOf(queue)));
    FERRITE_RETURN_IF_ERROR(Annotate(checked, absl::StrCat("queue ", i)));
  }
  return device_.CheckState(mmio);
}

void MmioTransport::LoadState(state::Device::Reader in) {
  virtio::Device::Lock lock(&device_);
  ResetLocked();
  const auto mmio = in.getVirtioMmio();
  status_ = mmio.getStatus();
  driver_features_ = mmio.getDriverFeatures();
  device_features_select_ = mmio.getDeviceFeaturesSelect();
  driver_features_select_ = mmio.getDriverFeaturesSelect();
  queue_select_ = mmio.getQueueSelect();
  interrupt_status_ = mmio.getInterruptStatus();
  config_generation_ = mmio.getConfigGeneration();
  for (size_t i = 0; i < queues_.size(); ++i) {
    const auto queue = mmio.getQueues()[i];
    queues_[i].setup = AddressesOf(queue);
    if (queue.getReady()) {
      FERRITE_CHECK(queues_[i]
                        .queue
                        .Enable(queues_[i].setup, (driver_features_ & kFeatureEventIndex) != 0,
                                (driver_features_ & kFeatureIndirectDescriptors) != 0)
                        .ok());
      queues_[i].queue.LoadProgress(ProgressOf(queue));
    }
  }
  if ((status_ & kDriverOk) != 0) {
    device_.Activate(driver_features_);
  }
  device_.LoadState(mmio);
}

}  // namespace ferrite::virtio
