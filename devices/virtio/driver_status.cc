#include "devices/virtio/driver_status.h"

#include "absl/strings/str_cat.h"
#include "devices/virtio/device.h"

namespace ferrite::virtio {
namespace {

constexpr uint32_t kDriverBits = kAcknowledge | kDriver | kDriverOk | kFeaturesOk | kFailed;

// `status` without the bits whose predecessor is missing: they are set in this order (§3.1.1).
uint32_t BitsInOrder(uint32_t status) {
  if ((status & kAcknowledge) == 0) {
    status &= ~kDriver;
  }
  if ((status & kDriver) == 0) {
    status &= ~kFeaturesOk;
  }
  if ((status & kFeaturesOk) == 0) {
    status &= ~kDriverOk;
  }
  return status;
}

}  // namespace

absl::Status CheckFeatures(uint64_t features, uint64_t offered) {
  if ((features & ~offered) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("driver features 0x", absl::Hex(features & ~offered), " are not offered by this device"));
  }
  if ((features & kFeatureVersion1) == 0) {
    return absl::InvalidArgumentError("driver features lack VIRTIO_F_VERSION_1");
  }
  return absl::OkStatus();
}

uint32_t StatusAfterWrite(uint32_t status, uint32_t value, uint64_t features, uint64_t offered) {
  const uint32_t before = status & kDriverBits;
  if ((value & before) != before) {
    return status;  // §2.1.1: a driver never clears a bit but by a reset
  }
  uint32_t after = BitsInOrder(value & kDriverBits);
  if ((after & ~before & kFeaturesOk) != 0 && !CheckFeatures(features, offered).ok()) {
    after = BitsInOrder(after & ~kFeaturesOk);
  }
  return after | (status & kNeedsReset);
}

bool IsStatus(uint32_t status) { return (status & ~(kDriverBits | kNeedsReset)) == 0 && BitsInOrder(status) == status; }

}  // namespace ferrite::virtio
