// virtio-rng, the entropy device (virtio 1.2 §5.4): random bytes of the host's kernel for the guest.
#ifndef FERRITE_DEVICES_RNG_RNG_H_
#define FERRITE_DEVICES_RNG_RNG_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "devices/virtio/device.h"
#include "proto/state.capnp.h"

namespace ferrite {

// One queue; each chain is filled from getrandom(2), at most kMaxRequestBytes of it (the driver sees how many).
class Rng final : public virtio::Device {
 public:
  static constexpr uint64_t kMaxRequestBytes = uint64_t{64} << 10;

  absl::string_view name() const override { return "virtio-rng"; }
  uint32_t device_id() const override { return 4; }
  uint64_t device_features() const override { return 0; }
  std::span<const uint16_t> queue_sizes() const override;

  void ReadConfig(uint64_t offset, std::span<uint8_t> out) override;
  void WriteConfig(uint64_t, std::span<const uint8_t>) override {}
  void Activate(uint64_t) override {}
  absl::Status ProcessQueue(uint16_t index) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Reset() override {}
  void Save(state::VirtioMmio::Builder out) const override { out.setRng(); }
  absl::Status CheckState(state::VirtioMmio::Reader in) const override;
  void LoadState(state::VirtioMmio::Reader) override {}
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_RNG_RNG_H_
