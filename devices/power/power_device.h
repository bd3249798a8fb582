// How a guest switches itself off or resets: ACPI's registers of a hardware-reduced machine.
#ifndef FERRITE_DEVICES_POWER_POWER_DEVICE_H_
#define FERRITE_DEVICES_POWER_POWER_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "devices/bus/device.h"
#include "proto/state.capnp.h"

namespace ferrite {

// ACPI 6.4, 4.8.3.7 (sleep control and status) and 4.8.3.6 (reset register), in accesses of one byte. The FADT says
// where the registers are and \_S5 which sleep type means off; both take these constants.
//
// Threads: any. The callbacks run on the vCPU thread that wrote the register, which goes on in the guest unless they
// stop it; they must not block, and may be called more than once.
class PowerDevice final : public IoDevice, public Device {
 public:
  static constexpr uint64_t kSleepControl = 0;
  static constexpr uint64_t kSleepStatus = 1;
  static constexpr uint64_t kReset = 2;
  static constexpr uint64_t kRegisters = 3;

  // Soft off: what \_S5 names. Written as kSleepTypeS5 << 2 with the enable bit 5.
  static constexpr uint8_t kSleepTypeS5 = 5;
  // What is written to kReset.
  static constexpr uint8_t kResetValue = 1;

  static constexpr uint32_t kStateVersion = 1;

  PowerDevice(std::string name, std::function<void()> power_off, std::function<void()> reset);

  // IoDevice:
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  void Write(uint64_t offset, std::span<const uint8_t> data) override;

  // Device: it does nothing of its own.
  absl::string_view name() const override { return name_; }
  void Quiesce() override {}
  void Resume() override {}
  void Reset() override { sleep_status_ = 0; }
  uint32_t state_version() const override { return kStateVersion; }
  void Save(state::Device::Builder out) const override;
  absl::Status CheckState(state::Device::Reader in) const override;
  void LoadState(state::Device::Reader in) override;

 private:
  const std::string name_;
  const std::function<void()> power_off_;
  const std::function<void()> reset_;
  std::atomic<uint8_t> sleep_status_{0};
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_POWER_POWER_DEVICE_H_
