// The rules of a device's status field (virtio 1.2 §2.1, §3.1.1), whatever transport the driver writes it through.
#ifndef FERRITE_DEVICES_VIRTIO_DRIVER_STATUS_H_
#define FERRITE_DEVICES_VIRTIO_DRIVER_STATUS_H_

#include <cstdint>

#include "absl/status/status.h"

namespace ferrite::virtio {

inline constexpr uint32_t kAcknowledge = 1;
inline constexpr uint32_t kDriver = 2;
inline constexpr uint32_t kDriverOk = 4;
inline constexpr uint32_t kFeaturesOk = 8;
inline constexpr uint32_t kNeedsReset = 64;  // the device's own bit
inline constexpr uint32_t kFailed = 128;

// INVALID_ARGUMENT when a driver cannot go on with `features`: they are not all offered, or lack VIRTIO_F_VERSION_1.
absl::Status CheckFeatures(uint64_t features, uint64_t offered);

// What `status` becomes when the driver writes `value`, which is not 0 (that resets the device). A bit is never cleared
// so, and is set only after the one before it; FEATURES_OK stays clear when CheckFeatures() refuses, as the driver
// reads back.
uint32_t StatusAfterWrite(uint32_t status, uint32_t value, uint64_t features, uint64_t offered);

// Whether a device can have this status.
bool IsStatus(uint32_t status);

}  // namespace ferrite::virtio

#endif  // FERRITE_DEVICES_VIRTIO_DRIVER_STATUS_H_
