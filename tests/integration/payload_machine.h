// A machine that runs a payload guest (tests/guest), for tests: its console as parsed lines, its memory, and the way
// from one machine to the next.
#ifndef FERRITE_TESTS_INTEGRATION_PAYLOAD_MACHINE_H_
#define FERRITE_TESTS_INTEGRATION_PAYLOAD_MACHINE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/timed_mutex.h"
#include "devices/serial/serial_backend.h"
#include "proto/state.capnp.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_config.h"

namespace capnp {
class MallocMessageBuilder;
}

namespace ferrite {

// "event=dirty writes=12 gap_ns=34", taken apart.
class PayloadLine {
 public:
  PayloadLine() = default;
  explicit PayloadLine(absl::string_view text);

  const std::string& text() const { return text_; }
  absl::string_view event() const { return Text("event"); }
  // Empty (0) when the line has no such field.
  absl::string_view Text(absl::string_view name) const;
  uint64_t Number(absl::string_view name) const;

 private:
  std::string text_;
  std::map<std::string, std::string, std::less<>> fields_;
};

// The serial port's other end. It outlives machines: a line that one machine begins the next one may end.
class PayloadConsole final : public SerialBackend {
 public:
  // The next line of `event` that no one has taken yet; those before it are dropped. Fails at the deadline, when the
  // payload reports a failure (event=fail), and when the machine has stopped and no such line is left.
  absl::StatusOr<PayloadLine> WaitFor(absl::string_view event, absl::Duration timeout);
  // Forgets the lines that have come so far.
  void SkipLines();
  // The lines with event=error since the start.
  std::vector<std::string> errors() const;
  // Hands a command to the guest; waits while the port's FIFO is full.
  absl::Status Send(char command, absl::Duration timeout);

  void SetStopped(bool stopped, std::string why);

  // SerialBackend.
  void Transmit(std::span<const uint8_t> bytes) override;
  void SetReceiver(Receiver receiver) override;
  void ReceiverReady() override;

 private:
  mutable TimedMutex mutex_;
  std::string partial_ ABSL_GUARDED_BY(mutex_);
  std::deque<PayloadLine> lines_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> errors_ ABSL_GUARDED_BY(mutex_);
  std::string failure_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t room_ ABSL_GUARDED_BY(mutex_) = 0;  // how often the FIFO got room again

  // Apart from mutex_: the receiver calls into the port, and the port calls ReceiverReady() with its own locks.
  absl::Mutex receiver_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  Receiver receiver_ ABSL_GUARDED_BY(receiver_mutex_);
};

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
  std::unique_ptr<PayloadConsole> console;
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
  PayloadConsole& console() { return *console_; }

  // PayloadConsole::WaitFor(); a deadline that passes pauses the machine and tells where its vCPUs are.
  absl::StatusOr<PayloadLine> WaitFor(absl::string_view event, absl::Duration timeout = kTimeout);
  absl::Status Send(char command) { return console_->Send(command, kTimeout); }
  // Has the payload check all that it knows of, and returns its line when it found nothing wrong.
  absl::StatusOr<PayloadLine> Check();
  // Waits for the machine to stop; a deadline that passes stops it.
  absl::StatusOr<StopInfo> WaitUntilStopped(absl::Duration timeout = kTimeout);

  // Pauses, saves everything and destroys the machine.
  static absl::StatusOr<SavedPayload> SaveAndDestroy(std::unique_ptr<PayloadMachine> machine);

 private:
  PayloadMachine() = default;
  static absl::StatusOr<std::unique_ptr<PayloadMachine>> Assemble(MachineConfig config,
                                                                  std::unique_ptr<PayloadConsole> console);
  std::string DescribeVcpus();

  // Destroyed from the last to the first.
  std::unique_ptr<PayloadConsole> console_;
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
