// The Linux guest of guest_init.sh in a ferrite machine, driven over its serial console.
#ifndef FERRITE_TESTS_NESTED_LINUX_GUEST_H_
#define FERRITE_TESTS_NESTED_LINUX_GUEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tests/nested/program.h"

namespace ferrite {

// Long for a machine that is emulated on a busy host; nothing waits that long when all is well.
inline constexpr absl::Duration kBootDeadline = absl::Seconds(240);
inline constexpr absl::Duration kCommandDeadline = absl::Seconds(180);
inline constexpr absl::Duration kMoveDeadline = absl::Seconds(300);

class LinuxGuest {
 public:
  struct Options {
    std::string name;
    std::string kernel = "external/debian_kernel/vmlinuz";
    std::string initrd = "tests/nested/guest.cpio.gz";
    std::string memory = "256M";
    int cpus = 1;
    std::string more_command_line;
    std::vector<std::string> more_arguments;  // of `ferrite run`
  };

  // `ferrite run` with the console on a pipe; returns when the guest answers.
  static absl::StatusOr<std::unique_ptr<LinuxGuest>> Boot(const Options& options);

  // Runs a line of shell in the guest and returns what it printed. An error when it fails.
  absl::StatusOr<std::string> Run(absl::string_view line, absl::Duration deadline = kCommandDeadline);
  // For lines that have no answer: reboot, power-off.
  absl::Status Send(absl::string_view line);
  // After a reset: the guest's next boot answers.
  absl::Status WaitUntilReady();
  // Waits for the end of `ferrite run`; its exit code.
  absl::StatusOr<int> WaitForExit(absl::Duration deadline = kCommandDeadline);

  // `ferrite COMMAND NAME ARGUMENTS...` on this machine.
  absl::StatusOr<Finished> Command(absl::string_view command, const std::vector<std::string>& arguments = {}) const;
  // Host memory that the monitor holds: its anonymous pages, and the pages of its memfds (the guest's RAM).
  absl::StatusOr<uint64_t> HostMemoryBytes() const;

  // A move to another monitor, step by step, or all of it. `ferrite receive` with the console on a pipe, which may have
  // the guest's files:
  absl::Status StartReceiver(const std::vector<std::string>& arguments = {});
  // `ferrite move` to that one.
  absl::StatusOr<std::unique_ptr<Program>> StartMove(const std::vector<std::string>& arguments);
  // After a move that succeeded: waits until the monitor that had the guest has ended with 0. From here on this object
  // means the machine in its new monitor.
  absl::Status Arrive();
  // After a move that did not: waits until the receiver has ended with 1; what it said.
  absl::StatusOr<std::string> EndReceiver();
  // What `ferrite move` printed. An error when it does not end with 0.
  absl::StatusOr<std::string> Move(const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& receiver_arguments = {});
  // The end of a move that has been started, as Move().
  absl::StatusOr<std::string> EndMove(Program& move);

  // Where the monitor that has the guest keeps what it removes at its end.
  std::string RunDir() const;

  Program& monitor() { return *monitor_; }

 private:
  LinuxGuest(const Options& options, std::string transcript, std::unique_ptr<Program> monitor)
      : name_(options.name),
        kernel_(options.kernel),
        initrd_(options.initrd),
        transcript_(std::move(transcript)),
        monitor_(std::move(monitor)) {}
  // What there is to know of a guest that does not answer.
  std::string DescribeSilence();
  // --run-dir of the monitor that has the guest, and of the one that it moves to.
  std::string Base(bool other) const;

  const std::string name_;
  const std::string kernel_;
  const std::string initrd_;
  const std::string transcript_;
  bool away_ = false;  // moved, and not moved back
  std::unique_ptr<Program> monitor_;
  std::unique_ptr<Program> receiver_;
  std::string address_;  // where it waits
};

// Where machines of tests live: --run-dir for every command, unless another is given.
std::string TestRunDir();
// `ferrite ARGUMENTS...`
absl::StatusOr<Finished> Ferrite(const std::vector<std::string>& arguments, const std::string& run_dir = TestRunDir());

}  // namespace ferrite

#endif  // FERRITE_TESTS_NESTED_LINUX_GUEST_H_
