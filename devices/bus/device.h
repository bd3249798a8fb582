// What a device is to the rest of the monitor: registers at offsets, an interrupt, and state that can be saved.
#ifndef FERRITE_DEVICES_BUS_DEVICE_H_
#define FERRITE_DEVICES_BUS_DEVICE_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/state.capnp.h"

namespace ferrite {

// An edge-triggered interrupt. Any thread may call Trigger(); it never blocks (an irqfd on KVM, a counter in tests).
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void Trigger() = 0;
};

// Registers of a device, seen through a window that the bus placed somewhere. The device never knows where.
//
// Threads: vCPU threads call Read and Write at any time, several at once: the device locks. Both return quickly: the
// guest's processor stands still meanwhile.
class IoDevice {
 public:
  virtual ~IoDevice() = default;
  // Fills `data` (1 to 8 bytes; 1, 2 or 4 for ports) from the register at `offset`. A register that is not there, or an
  // access of a width that it does not have, reads as all ones.
  virtual void Read(uint64_t offset, std::span<uint8_t> data) = 0;
  virtual void Write(uint64_t offset, std::span<const uint8_t> data) = 0;
};

// A device's life beside its registers. Machine calls these from one thread at a time, in this order:
//   Reset* → (Resume → Quiesce)* ; Save, CheckState, LoadState and Reset only while quiesced.
// A device is born quiesced.
class Device {
 public:
  virtual ~Device() = default;

  // Unique in a machine, and the same at both ends of a move: "serial0", "virtio-blk:root".
  virtual absl::string_view name() const = 0;

  // Stops work of its own and waits for what is in flight. After it returned the device neither writes guest memory nor
  // triggers an interrupt; register accesses do not come (the vCPUs are paused). Work that the guest asks for meanwhile
  // (a doorbell that was rung just before) is kept for Resume().
  virtual void Quiesce() = 0;
  // Starts work again: looks at every queue as if its doorbell had been rung and triggers the interrupt again if one is
  // pending, so that nothing is lost with a doorbell or an interrupt that a pause or a move swallowed.
  virtual void Resume() = 0;
  // It came here by a move, and the guest runs: a network device announces itself now. After Resume(), once.
  virtual void Arrived() {}
  // To the state at power-on.
  virtual void Reset() = 0;

  // The version that Save() writes, the newest that LoadState() takes. Any thread, also while the device works.
  virtual uint32_t state_version() const = 0;
  // Writes all that a device of the same configuration needs to go on from here.
  virtual void Save(state::Device::Builder out) const = 0;
  // Whether LoadState() would take `in`: kind, version, and every field in range. Changes nothing (R7). The error names
  // the device and the field.
  virtual absl::Status CheckState(state::Device::Reader in) const = 0;
  // Takes over `in`, for which CheckState() was OK.
  virtual void LoadState(state::Device::Reader in) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BUS_DEVICE_H_
