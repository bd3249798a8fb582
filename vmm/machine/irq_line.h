// An interrupt of the guest: an eventfd that KVM turns into an edge on an interrupt line.
#ifndef FERRITE_VMM_MACHINE_IRQ_LINE_H_
#define FERRITE_VMM_MACHINE_IRQ_LINE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "devices/bus/device.h"
#include "vmm/kvm/vm.h"

namespace ferrite {

// KVM injects the edge on a thread of its own a moment after Trigger(), perhaps after a save of the irqchip: a device
// triggers again what is pending in its Resume().
class IrqLine final : public InterruptLine {
 public:
  // A line to `gsi` of `vm`.
  static absl::StatusOr<std::unique_ptr<IrqLine>> Create(const KvmVm& vm, uint32_t gsi);

  void Trigger() override { event_.Signal(); }

 private:
  explicit IrqLine(EventFd event) : event_(std::move(event)) {}

  EventFd event_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_IRQ_LINE_H_
