// The same Linux guest (tests/nested/guest_init.sh) in a ferrite machine or in QEMU's microvm machine, driven over its
// serial console, for comparisons inside the outer machine of the nested tests.
#ifndef FERRITE_BENCH_LINUX_MONITOR_H_
#define FERRITE_BENCH_LINUX_MONITOR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/monitor_process.h"

namespace ferrite {

struct GuestOptions {
  uint32_t memory_mib = 192;
  // With a disk, a balloon of size 0 and random numbers.
  bool devices = false;
  // With a balloon of size 0, whatever `devices` is. The guest reports its free pages to any balloon.
  bool balloon = false;
  // ferrite's --thp. QEMU has no such choice: its guests are on huge pages where the host gives them.
  bool thp = true;
  // Of this monitor's own, for its sockets and the disk.
  std::string directory;
  uint32_t disk_mib = 64;
};

// Killed with its owner.
class LinuxMonitor {
 public:
  virtual ~LinuxMonitor() = default;

  // Starts the process. Nothing is waited for.
  virtual absl::Status Start(const GuestOptions& options) = 0;
  // Sets the balloon and returns when the guest has reached the size. Both monitors are asked as often.
  virtual absl::Status Balloon(uint64_t bytes) = 0;
  virtual const char* name() const = 0;

  // Seconds from the start of the process to the first word of the guest's init; to the time when its drivers are
  // loaded.
  absl::StatusOr<double> WaitForInit();
  absl::StatusOr<double> WaitForReady();
  // Runs a line of shell in the guest; what it printed. An error when it fails.
  absl::StatusOr<std::string> Run(absl::string_view line);
  // What it printed last, for the message of a failure.
  std::string LastWords();
  pid_t pid() const { return process_->pid(); }

 protected:
  absl::Status StartProcess(std::vector<std::string> arguments);

 private:
  absl::StatusOr<double> WaitSince(absl::string_view text);

  std::unique_ptr<MonitorProcess> process_;
};

std::unique_ptr<LinuxMonitor> NewFerrite();
std::unique_ptr<LinuxMonitor> NewQemu();

}  // namespace ferrite

#endif  // FERRITE_BENCH_LINUX_MONITOR_H_
