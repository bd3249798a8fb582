// virtio over memory-mapped registers, version 2 (virtio 1.2 §4.2).
#ifndef FERRITE_DEVICES_VIRTIO_MMIO_TRANSPORT_H_
#define FERRITE_DEVICES_VIRTIO_MMIO_TRANSPORT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "devices/bus/device.h"
#include "devices/virtio/device.h"
#include "devices/virtio/queue.h"
#include "memory/guest_memory.h"

namespace ferrite::virtio {

inline constexpr uint64_t kMmioWindowBytes = 4096;
// Where a guest writes a queue's index to ring its doorbell (32 bits): the address of an ioeventfd.
inline constexpr uint64_t kQueueNotifyOffset = 0x50;

// The registers of one virtio device, in a window of kMmioWindowBytes.
//
// Where an allocation fails, a queue is looked at again later (10 ms), and a register is not written.
//
// Threads: as IoDevice and ferrite::Device say; vCPUs may run on while it is quiesced: their chains wait, and registers
// work. Queues are processed on the event loop's thread.
class MmioTransport final : public IoDevice, public ferrite::Device, private Transport {
 public:
  // `memory`, `interrupt` and `loop` outlive the transport. Must not be destroyed on the loop's thread, and only when
  // quiesced.
  static absl::StatusOr<std::unique_ptr<MmioTransport>> Create(std::unique_ptr<virtio::Device> device,
                                                               GuestMemory& memory, InterruptLine& interrupt,
                                                               EventLoop& loop);
  static constexpr uint32_t kStateVersion = 1;

  ~MmioTransport() override;

  virtio::Device& device() { return device_; }

  // One for each queue, by index: registered as an ioeventfd (kQueueNotifyOffset, 4 bytes, data match the index) it
  // spares the vCPU the way through Write(), which signals the same descriptor.
  std::span<const EventFd> doorbells() const { return doorbells_; }

  // IoDevice.
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  void Write(uint64_t offset, std::span<const uint8_t> data) override;

  // ferrite::Device.
  absl::string_view name() const override { return device_.name(); }
  void Quiesce() override;
  void Resume() override;
  void Arrived() override;
  void Reset() override;
  uint32_t state_version() const override { return kStateVersion; }
  void Save(state::Device::Builder out) const override;
  absl::Status CheckState(state::Device::Reader in) const override;
  void LoadState(state::Device::Reader in) override;

 private:
  MmioTransport(std::unique_ptr<virtio::Device> device, GuestMemory& memory, InterruptLine& interrupt,
                std::vector<EventFd> doorbells);

  // Transport.
  GuestMemory& memory() override { return memory_; }
  Queue& queue(uint16_t index) override;
  void NotifyUsed(uint16_t index) override;
  void NotifyConfigChange() override;
  void RingDoorbell(uint16_t index) override { doorbells_[index].Signal(); }
  void Fail(const absl::Status& status) override;

  uint64_t offered_features() const { return device_.device_features() | kTransportFeatures; }

  // Whether queues may be processed.
  bool active() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void HandleDoorbell(uint16_t index);
  void ProcessQueue(uint16_t index);
  void FailQueue(uint16_t index, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  uint32_t ReadRegister(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void WriteRegister(uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void WriteStatus(uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void WriteQueueRegister(uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void WriteQueueReady(uint16_t index, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void DrainLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void ResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  absl::Status CheckStateLocked(state::Device::Reader in) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void RingEnabledQueues() ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());
  void Interrupt(uint32_t reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(device_.mutex());

  // §4.2.2, InterruptStatus.
  static constexpr uint32_t kInterruptUsed = 1;
  static constexpr uint32_t kInterruptConfig = 2;

  // What the driver writes into the queue registers until it sets QueueReady.
  struct QueueSlot {
    Queue queue;
    QueueAddresses setup;
  };

  const std::unique_ptr<virtio::Device> owned_device_;
  virtio::Device& device_;
  GuestMemory& memory_;
  InterruptLine& interrupt_;
  const std::vector<EventFd> doorbells_;

  bool running_ ABSL_GUARDED_BY(device_.mutex()) = false;  // between Resume and Quiesce
  bool drained_ ABSL_GUARDED_BY(device_.mutex()) = true;   // false while DrainLocked() waits without the mutex
  uint32_t status_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint64_t driver_features_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint32_t device_features_select_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint32_t driver_features_select_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint32_t queue_select_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint32_t interrupt_status_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint32_t config_generation_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  uint32_t failures_logged_ ABSL_GUARDED_BY(device_.mutex()) = 0;
  std::vector<QueueSlot> queues_ ABSL_GUARDED_BY(device_.mutex());

  // Destroyed first, without the mutex: the callbacks take it.
  std::vector<std::unique_ptr<EventLoop::Watch>> watches_;
};

}  // namespace ferrite::virtio

#endif  // FERRITE_DEVICES_VIRTIO_MMIO_TRANSPORT_H_
