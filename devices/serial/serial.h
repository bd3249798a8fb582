// A 16550A UART: the guest's console.
#ifndef FERRITE_DEVICES_SERIAL_SERIAL_H_
#define FERRITE_DEVICES_SERIAL_SERIAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "devices/bus/device.h"
#include "devices/serial/serial_backend.h"
#include "proto/state.capnp.h"

namespace ferrite {

// The registers of National Semiconductor's PC16550D data sheet, at offsets 0 to 7, in accesses of one byte. The line
// has no speed: a byte that is written to the transmitter is gone at once, so the transmitter is always empty, and a
// character timeout is due at once. The modem lines say that the other end is there. OUT2 does not gate the interrupt.
//
// The interrupt is an edge: it is triggered whenever a cause becomes pending that was not, also while others are.
// A driver that handles causes until the identification register says that there is none loses nothing.
//
// Threads: vCPU threads read and write, the backend's thread calls the receiver. While the port is quiesced, or in
// loopback mode, the receiver takes nothing.
class Serial final : public IoDevice, public Device {
 public:
  static constexpr uint64_t kRegisters = 8;
  static constexpr uint32_t kStateVersion = 1;

  // `interrupt` and `backend` outlive the port. Without a backend (null) output is dropped and nothing is received.
  Serial(std::string name, InterruptLine& interrupt, SerialBackend* backend);
  Serial(const Serial&) = delete;
  Serial& operator=(const Serial&) = delete;
  ~Serial() override;

  // IoDevice:
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  void Write(uint64_t offset, std::span<const uint8_t> data) override;

  // Device:
  absl::string_view name() const override { return name_; }
  void Quiesce() override;
  void Resume() override;
  void Reset() override;
  uint32_t state_version() const override { return kStateVersion; }
  void Save(state::Device::Builder out) const override;
  absl::Status CheckState(state::Device::Reader in) const override;
  void LoadState(state::Device::Reader in) override;

 private:
  static constexpr size_t kFifoBytes = 16;

  // What a guest can change; the values are those at power-on.
  struct Registers {
    uint8_t interrupt_enable = 0;
    uint8_t fifo_control = 0;
    uint8_t line_control = 0;
    uint8_t modem_control = 0;
    uint8_t modem_status = 0xb0;
    uint8_t scratch = 0;
    uint16_t divisor = 12;  // 9600 baud
    bool overrun = false;
    bool transmitter_interrupt = false;
    // The first `received` bytes of `fifo`, oldest first; at most one without the FIFO.
    std::array<uint8_t, kFifoBytes> fifo = {};
    size_t received = 0;

    bool divisor_access() const;
    bool loopback() const;
    bool fifo_enabled() const;
    size_t capacity() const { return fifo_enabled() ? kFifoBytes : 1; }
    uint8_t line_status() const;
    // The causes that are pending, as bits of the interrupt enable register.
    uint8_t pending() const;
    uint8_t interrupt_identification() const;
  };

  // `in` has been checked.
  static Registers Decode(state::Serial::Reader in);
  uint8_t ReadLocked(uint64_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteLocked(uint64_t offset, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetFifoControlLocked(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetModemControlLocked(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoopBackLocked(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Triggers the interrupt when a cause is new.
  void UpdateInterruptLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the backend is to be told, after the lock was released, that it can go on.
  bool TakeReceiverReadyLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The backend's Receiver.
  size_t Receive(std::span<const uint8_t> bytes);

  const std::string name_;
  InterruptLine& interrupt_;
  SerialBackend* const backend_;

  // Held around Transmit(), so that bytes leave in the order in which they were written. The backend is never called
  // with mutex_ held: it calls the receiver with locks of its own held.
  absl::Mutex transmit_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  mutable absl::Mutex mutex_;
  Registers registers_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  // The causes that were pending when the interrupt was last looked at.
  uint8_t signalled_ ABSL_GUARDED_BY(mutex_) = 0;
  // The receiver has refused bytes since the backend was last told to go on.
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_SERIAL_SERIAL_H_
