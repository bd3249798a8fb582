// A machine that runs a payload guest (tests/guest), for tests: its console as parsed lines, its memory, and the way
// from one machine to the next.
#ifndef FERRITE_TESTS_INTEGRATION_PAYLOAD_MACHINE_H_
#define FERRITE_TESTS_INTEGRATION_PAYLOAD_MACHINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "devices/serial/serial_backend.h"
#include "proto/state.capnp.h"
#include "tests/fakes/guest_console.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_config.h"

namespace capnp {
class MallocMessageBuilder;
}

namespace ferrite {

// What is left of a machine that was saved and destroyed.
struct SavedPayload {
  struct Ram {
    std::string region;
    uint64_t bytes;
    Fd memfd;  // only what was not zero is in it
  };

  ~SavedPayload();
  SavedPayload();
  SavedPayload(SavedPayload&&) noexcept;
  SavedPayload& operator=(SavedPayload&&) noexcept;

  std::unique_ptr<capnp::MallocMessageBuilder> state;
  std::vector<Ram> ram;
  std::unique_ptr<GuestConsole> console;
};

// Threads: the test's. Every wait has a deadline.
class PayloadMachine {
 public:
  static constexpr absl::Duration kTimeout = absl::Seconds(60);

  // A machine that will run `program` (a target of //tests/guest, in the test's data) with `config`, whose kernel_path
  // and name are filled in. Not booted.
  static absl::StatusOr<std::unique_ptr<PayloadMachine>> Create(absl::string_view program, MachineConfig config);
  // The same, booted and running.
  static absl::StatusOr<std::unique_ptr<PayloadMachine>> Run(absl::string_view program, MachineConfig config);
  // A paused machine in the state that `saved` holds.
  static absl::StatusOr<std::unique_ptr<PayloadMachine>> Load(SavedPayload saved, MachineConfig config);
  // No machine yet: what one needs that arrives here, to be made with host() and then given to Adopt().
  static absl::StatusOr<std::unique_ptr<PayloadMachine>> Await();
  struct Host {
    Kvm& kvm;
    EventLoop& loop;
    SerialBackend& console;
  };
  Host host() { return {*kvm_, *loop_, *console_}; }
  void Adopt(std::unique_ptr<Machine> machine) { machine_ = std::move(machine); }
  // For Machine::SetListener(): the console hears of the end.
  std::function<void(const MachineEvent&)> Listener();
  ~PayloadMachine();

  Machine& machine() { return *machine_; }
  GuestMemory& memory() { return machine_->memory(); }
  GuestConsole& console() { return *console_; }

  // GuestConsole::WaitFor(); a deadline that passes pauses the machine and tells where its vCPUs are.
  absl::StatusOr<GuestLine> WaitFor(absl::string_view event, absl::Duration timeout = kTimeout);
  absl::Status Send(char command) { return console_->Send(command, kTimeout); }
  // Has the payload check all that it knows of, and returns its line when it found nothing wrong.
  absl::StatusOr<GuestLine> Check();
  // Waits for the machine to stop; a deadline that passes stops it.
  absl::StatusOr<StopInfo> WaitUntilStopped(absl::Duration timeout = kTimeout);

  // Pauses, saves everything and destroys the machine.
  static absl::StatusOr<SavedPayload> SaveAndDestroy(std::unique_ptr<PayloadMachine> machine);

 private:
  PayloadMachine() = default;
  static absl::StatusOr<std::unique_ptr<PayloadMachine>> Assemble(MachineConfig config,
                                                                  std::unique_ptr<GuestConsole> console);
  std::string DescribeVcpus();

  // Destroyed from the last to the first.
  std::unique_ptr<GuestConsole> console_;
  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Machine> machine_;
};

// The file of a //tests/guest program in the test's data.
std::string PayloadPath(absl::string_view program);

// Bytes of host memory that the machine's RAM takes now.
absl::StatusOr<uint64_t> ResidentBytes(GuestMemory& memory);

}  // namespace ferrite

#endif  // FERRITE_TESTS_INTEGRATION_PAYLOAD_MACHINE_H_
