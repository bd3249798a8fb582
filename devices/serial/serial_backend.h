// Where a serial port's bytes go to and come from.
#ifndef FERRITE_DEVICES_SERIAL_SERIAL_BACKEND_H_
#define FERRITE_DEVICES_SERIAL_SERIAL_BACKEND_H_

#include <cstdint>
#include <functional>
#include <span>

namespace ferrite {

class SerialBackend {
 public:
  virtual ~SerialBackend() = default;

  // What the guest sent. Called by vCPU threads, one call at a time; must not block.
  virtual void Transmit(std::span<const uint8_t> bytes) = 0;

  // The port's end for input: takes as many of the bytes as the receive FIFO has room for and returns the number.
  using Receiver = std::function<size_t(std::span<const uint8_t>)>;
  // Called once with the receiver when the port is made, and with null before the port is gone; after that call
  // returned the receiver is not called any more.
  virtual void SetReceiver(Receiver receiver) = 0;

  // The FIFO has room again after the receiver had refused bytes. Called by a vCPU thread; must not block and must not
  // call the receiver from within.
  virtual void ReceiverReady() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_SERIAL_SERIAL_BACKEND_H_
