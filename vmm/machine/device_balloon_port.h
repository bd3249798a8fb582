// A balloon device as the rest of the monitor sees it.
#ifndef FERRITE_VMM_MACHINE_DEVICE_BALLOON_PORT_H_
#define FERRITE_VMM_MACHINE_DEVICE_BALLOON_PORT_H_

#include "absl/status/status.h"
#include "devices/balloon/balloon.h"
#include "vmm/machine/balloon_port.h"

namespace ferrite {

class DeviceBalloonPort final : public BalloonPort {
 public:
  // `balloon` outlives the port.
  explicit DeviceBalloonPort(Balloon& balloon) : balloon_(balloon) {}

  BalloonFigures Figures() const override;
  absl::Status SetTarget(uint64_t bytes) override { return balloon_.SetTarget(bytes); }
  bool inhibited() const override { return balloon_.inhibitor().inhibited(); }
  absl::Status RequestStatistics() override { return balloon_.RequestStatistics(); }

 private:
  Balloon& balloon_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_DEVICE_BALLOON_PORT_H_
