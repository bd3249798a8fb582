// For tests: a machine on real KVM with a payload guest (tests/guest) in it, and what the guest says.
#ifndef FERRITE_TESTS_FAKES_MACHINE_HARNESS_H_
#define FERRITE_TESTS_FAKES_MACHINE_HARNESS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/event_loop.h"
#include "devices/serial/serial_backend.h"
#include "tests/fakes/guest_console.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// Opens KVM and a loop; machines are made from it.
class MachineHarness {
 public:
  MachineHarness();

  Kvm& kvm() { return *kvm_; }

  // A machine that boots the payload `program` with `command_line`.
  static MachineConfig Config(const std::string& program, const std::string& command_line, uint32_t cpus = 1);
  // Stops the test's process when it cannot be made: `error` is for tests of that.
  std::unique_ptr<Machine> Create(const MachineConfig& config, SerialBackend* console);
  absl::Status CreateError(const MachineConfig& config);

 private:
  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<EventLoop> loop_;
};

// Copies all guest memory from one machine to another of the same size.
void CopyMemory(Machine& from, Machine& to);
// The bytes of all guest memory.
std::vector<uint8_t> MemoryImage(Machine& machine);

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_MACHINE_HARNESS_H_
