// The contract between a virtio device (block, balloon, rng, ...) and the transport in front of it.
#ifndef FERRITE_DEVICES_VIRTIO_DEVICE_H_
#define FERRITE_DEVICES_VIRTIO_DEVICE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "devices/virtio/queue.h"
#include "memory/guest_memory.h"
#include "proto/state.capnp.h"

namespace ferrite::virtio {

// Feature bits that the transport offers and handles for every device (virtio 1.2 §6).
inline constexpr uint64_t kFeatureIndirectDescriptors = uint64_t{1} << 28;
inline constexpr uint64_t kFeatureEventIndex = uint64_t{1} << 29;
inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kTransportFeatures = kFeatureIndirectDescriptors | kFeatureEventIndex | kFeatureVersion1;

// What a device asks of its transport. Every call is made with the device's mutex held, unless it says otherwise, from
// any thread.
class Transport {
 public:
  virtual GuestMemory& memory() = 0;
  // `index` is one of the device's queues. A queue that the driver did not set up is there, but not enabled.
  virtual Queue& queue(uint16_t index) = 0;
  // Chains were pushed to the queue: interrupts the driver if it wants that. Call it after each batch.
  virtual void NotifyUsed(uint16_t index) = 0;
  // The configuration space changed: raises its generation and, once the driver runs, interrupts it.
  virtual void NotifyConfigChange() = 0;
  // ProcessQueue(index) will be called soon on the loop's thread; when quiesced, after Resume(). Also without the
  // mutex.
  virtual void RingDoorbell(uint16_t index) = 0;
  // The device met something that it cannot go on from (the driver broke a queue). The transport logs it, sets
  // DEVICE_NEEDS_RESET (§2.1.2), tells the driver, and calls ProcessQueue() no more until the driver has reset the
  // device. Chains in flight may still be pushed.
  virtual void Fail(const absl::Status& status) = 0;

 protected:
  ~Transport() = default;
};

// A device behind a transport, which owns it.
//
// Threads: one mutex guards the device, its queues and its transport; it lives here so that a device can name it in its
// annotations. The transport holds it for every call below that says so: register accesses on vCPU threads,
// ProcessQueue on the event loop's thread. A device whose work ends elsewhere (an io_uring completion, a call of its
// public interface) takes it itself. No call blocks with it held; Drain() waits with mutex().Await(), which lets go of
// it meanwhile.
//
// Who waits for the mutex waits for one call at most: a pass over a queue is a bounded piece of work (ProcessQueue()),
// and the next one begins only when nobody is left who waits with a Lock. absl's mutex by itself makes no such promise:
// who gives it up and takes it again at once has it before a thread that has to be woken first.
class Device {
 public:
  // How everybody but the loop takes the mutex.
  class ABSL_SCOPED_LOCKABLE Lock {
   public:
    explicit Lock(const Device* device) ABSL_EXCLUSIVE_LOCK_FUNCTION(device->mutex_) : device_(*device) {
      device_.waiting_.fetch_add(1);
      device_.mutex_.Lock();
      device_.waiting_.fetch_sub(1);
    }
    ~Lock() ABSL_UNLOCK_FUNCTION() { device_.mutex_.Unlock(); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    const Device& device_;
  };

  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  absl::Mutex& mutex() const ABSL_LOCK_RETURNED(mutex_) { return mutex_; }
  // How many wait with a Lock. Becomes zero with the mutex held: for a Condition.
  int waiting() const { return waiting_.load(); }

  // Fixed for the device's life; any thread, no lock.
  // The name in the machine: "virtio-rng", "virtio-blk:root".
  virtual absl::string_view name() const = 0;
  // §5: 4 is the entropy device.
  virtual uint32_t device_id() const = 0;
  // The device's own feature bits that it offers; the transport adds kTransportFeatures.
  virtual uint64_t device_features() const = 0;
  // The largest size of each queue (a power of two).
  virtual std::span<const uint16_t> queue_sizes() const = 0;

  // Called once, before all that follows; the transport lives as long as the device.
  void Attach(Transport* transport) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    transport_ = transport;
  }

  // The configuration space, at an offset and of a length that the driver chose. What lies past its end reads as zero;
  // writes to what is not writable are ignored.
  virtual void ReadConfig(uint64_t offset, std::span<uint8_t> out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  virtual void WriteConfig(uint64_t offset, std::span<const uint8_t> in) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  // The driver set DRIVER_OK; `features` are those that it accepted (a subset of what was offered).
  virtual void Activate(uint64_t features) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  // The driver rang the queue's doorbell, or may have. Takes chains until there are none, or until a fair share of work
  // is done: the transport calls again as long as chains are left (it handles the suppression of doorbells, too). The
  // share is some milliseconds of work and counts what costs the time, whatever number of chains that is: a pause, the
  // vCPUs and the other devices' queues wait for it. Only called between Activate() and Reset(), when not quiesced, for
  // an enabled queue. An error goes to Fail(). It may throw std::bad_alloc, and is called again later then: a chain
  // that it took has been begun, or is in the queue again.
  virtual absl::Status ProcessQueue(uint16_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  // False after ProcessQueue() that left chains because the device has enough in flight: the transport does not call
  // again by itself. The device calls RingDoorbell() once it takes chains again.
  virtual bool TakesMore(uint16_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    (void)index;
    return true;
  }

  // Returns once nothing of the device writes guest memory any more and no chain will be pushed by work in flight:
  // waits for what is in flight and pushes it, or puts it back into its queue. Chains that it has not taken stay there:
  // ProcessQueue() is not called meanwhile. Never called on the loop's thread. A device that does all work in
  // ProcessQueue() has nothing to do.
  virtual void Drain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}

  // Files of the host that the device works on: released when all that was written is in them, so that another monitor
  // can have them, and acquired again, the same ones. Drained before. Most have none.
  virtual absl::Status ReleaseFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return absl::OkStatus(); }
  virtual absl::Status AcquireFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return absl::OkStatus(); }

  // See ferrite::Device. Most have nothing to say.
  virtual void Arrived() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}

  // The driver stopped one queue: forgets the chains that it holds of it. Drain() was called before.
  virtual void ResetQueue(uint16_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { (void)index; }
  // To the state at power-on: forgets features and chains that it holds. Drain() was called before.
  virtual void Reset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  // Writes the union of `out` (the part of this device); the transport writes the rest. Drained before.
  virtual void Save(state::VirtioMmio::Builder out) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  // Whether LoadState() would take the union of `in` (R7); the transport checks the rest. Changes nothing.
  virtual absl::Status CheckState(state::VirtioMmio::Reader in) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  // Takes over the union of `in`, for which CheckState() was OK. Called after Reset(), after the queues were loaded,
  // and after Activate() when the driver had set DRIVER_OK.
  virtual void LoadState(state::VirtioMmio::Reader in) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

 protected:
  Device() = default;
  // ReadConfig() of a device whose whole configuration space is `config`.
  static void CopyConfig(std::span<const uint8_t> config, uint64_t offset, std::span<uint8_t> out) {
    const size_t bytes = offset < config.size() ? std::min<uint64_t>(out.size(), config.size() - offset) : 0;
    std::copy_n(config.begin() + static_cast<ptrdiff_t>(bytes > 0 ? offset : 0), bytes, out.begin());
    std::fill(out.begin() + static_cast<ptrdiff_t>(bytes), out.end(), uint8_t{0});
  }
  Transport& transport() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return *transport_; }
  // As Transport says, for those who do not have the mutex. After Attach().
  void RingDoorbell(uint16_t index) const { transport_->RingDoorbell(index); }

  mutable absl::Mutex mutex_;

 private:
  mutable std::atomic<int> waiting_{0};
  Transport* transport_ = nullptr;  // fixed since Attach()
};

}  // namespace ferrite::virtio

#endif  // FERRITE_DEVICES_VIRTIO_DEVICE_H_
