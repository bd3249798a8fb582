// The other end of a payload guest's serial port (tests/guest): what the guest says, as lines taken apart.
#ifndef FERRITE_TESTS_FAKES_GUEST_CONSOLE_H_
#define FERRITE_TESTS_FAKES_GUEST_CONSOLE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "devices/serial/serial_backend.h"

namespace ferrite {

// "event=dirty writes=12 gap_ns=0x22", taken apart.
class GuestLine {
 public:
  GuestLine() = default;
  explicit GuestLine(absl::string_view text);

  const std::string& text() const { return text_; }
  absl::string_view event() const { return Text("event"); }
  // Empty (0) when the line has no such field. Numbers are decimal, or hex with 0x.
  absl::string_view Text(absl::string_view name) const;
  uint64_t Number(absl::string_view name) const;

 private:
  std::string text_;
  std::map<std::string, std::string, std::less<>> fields_;
};

// Outlives machines: a line that one machine begins the next one may end. Threads: any.
class GuestConsole final : public SerialBackend {
 public:
  // The next line of `event` that no one has taken yet; those before it are dropped. Fails at the deadline, when the
  // payload reports a failure (event=fail), and when the machine has stopped and no such line is left.
  absl::StatusOr<GuestLine> WaitFor(absl::string_view event, absl::Duration timeout);
  // The same for who need not know why there is none.
  std::optional<GuestLine> Next(absl::string_view event, absl::Duration patience = absl::Seconds(120));
  // Nobody takes the lines that have come so far.
  void SkipLines();

  // All lines since the start, taken or not, and the texts of those with event=error.
  std::vector<GuestLine> lines() const;
  std::vector<std::string> errors() const;
  size_t line_count() const;
  // Whether a line comes beyond the first `count` within `patience`.
  bool NewLine(size_t count, absl::Duration patience) const;

  // Hands a command to the guest; waits while the port's FIFO is full.
  absl::Status Send(char command, absl::Duration timeout);

  // Whether the machine has stopped; nobody waits for more lines of one that has.
  void SetStopped(bool stopped, std::string why);

  // SerialBackend.
  void Transmit(std::span<const uint8_t> bytes) override;
  void SetReceiver(Receiver receiver) override;
  void ReceiverReady() override;

 private:
  mutable TimedMutex mutex_;
  std::string partial_ ABSL_GUARDED_BY(mutex_);
  std::vector<GuestLine> lines_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // the first that nobody has taken
  std::string failure_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t room_ ABSL_GUARDED_BY(mutex_) = 0;  // how often the FIFO got room again

  // Apart from mutex_: the receiver calls into the port, and the port calls Transmit() and ReceiverReady() with its own
  // locks.
  absl::Mutex receiver_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  Receiver receiver_ ABSL_GUARDED_BY(receiver_mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_GUEST_CONSOLE_H_
