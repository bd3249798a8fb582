// For tests: a machine on real KVM with a payload guest (tests/guest) in it, and what the guest says.
#ifndef FERRITE_TESTS_FAKES_MACHINE_HARNESS_H_
#define FERRITE_TESTS_FAKES_MACHINE_HARNESS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/timed_mutex.h"
#include "devices/serial/serial_backend.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// A line of a payload guest: "name=value name=value ...". Anything else has no values.
struct GuestLine {
  std::string text;
  std::map<std::string, std::string> values;

  std::string event() const { return Text("event"); }
  std::string Text(const std::string& name) const;
  // Decimal, or hex with 0x; 0 when there is no such value.
  uint64_t Number(const std::string& name) const;
};

// The other end of the guest's serial port. Threads: any.
class GuestConsole final : public SerialBackend {
 public:
  void Transmit(std::span<const uint8_t> bytes) override;
  void SetReceiver(Receiver receiver) override;
  void ReceiverReady() override {}

  // Types `text`; false when the guest's FIFO has no room for it.
  bool Type(const std::string& text);

  // The next line of the event that no call returned yet; lines before it are dropped. Nothing after `patience`.
  std::optional<GuestLine> Next(const std::string& event, absl::Duration patience = absl::Seconds(120));
  // All lines since the start.
  std::vector<GuestLine> lines() const;
  size_t line_count() const;
  // Whether a line comes beyond the first `count` within `patience`.
  bool NewLine(size_t count, absl::Duration patience) const;

 private:
  // The receiver's lock is above the port's; the port transmits with a lock of its own held: two mutexes.
  absl::Mutex receiver_mutex_;
  Receiver receiver_ ABSL_GUARDED_BY(receiver_mutex_);
  mutable TimedMutex mutex_;
  std::string partial_ ABSL_GUARDED_BY(mutex_);
  std::vector<GuestLine> lines_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
};

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
