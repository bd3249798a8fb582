#include "vmm/machine/irq_line.h"

#include "base/status.h"

namespace ferrite {

absl::StatusOr<std::unique_ptr<IrqLine>> IrqLine::Create(const KvmVm& vm, uint32_t gsi) {
  FERRITE_ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  FERRITE_RETURN_IF_ERROR(vm.AddIrqFd(event.fd(), gsi));
  return std::unique_ptr<IrqLine>(new IrqLine(std::move(event)));
}

}  // namespace ferrite
