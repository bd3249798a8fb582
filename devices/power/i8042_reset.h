// The PC's old way to reset: a command to the keyboard controller.
#ifndef FERRITE_DEVICES_POWER_I8042_RESET_H_
#define FERRITE_DEVICES_POWER_I8042_RESET_H_

#include <cstdint>
#include <functional>
#include <span>

#include "devices/bus/device.h"

namespace ferrite {

// The command port of a keyboard controller that only knows how to pulse the reset line. It has no state.
//
// Threads: any. The callback runs on the vCPU thread that wrote the command; it must not block, and may be called more
// than once.
class I8042Reset final : public IoDevice {
 public:
  // Where software looks for it.
  static constexpr uint16_t kPort = 0x64;
  static constexpr uint64_t kRegisters = 1;
  static constexpr uint8_t kResetCommand = 0xfe;

  explicit I8042Reset(std::function<void()> reset);

  // The status: nothing to read, ready for a command.
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  void Write(uint64_t offset, std::span<const uint8_t> data) override;

 private:
  const std::function<void()> reset_;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_POWER_I8042_RESET_H_
