#include "bench/monitor_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "bench/samples.h"

namespace ferrite {

absl::StatusOr<std::unique_ptr<MonitorProcess>> MonitorProcess::Start(std::vector<std::string> arguments) {
  int input[2];
  int output[2];
  if (pipe2(input, O_CLOEXEC) != 0 || pipe2(output, O_CLOEXEC) != 0) {
    return ErrnoStatus("make pipes");
  }
  Fd child_input(input[0]);
  Fd our_input(input[1]);
  Fd our_output(output[0]);
  Fd child_output(output[1]);
  const double started = Now();
  FERRITE_ASSIGN_OR_RETURN(ChildProcess child,
                           ChildProcess::Start(arguments, {.input = child_input.get(), .output = child_output.get()}));
  return std::unique_ptr<MonitorProcess>(
      new MonitorProcess(std::move(child), std::move(our_input), std::move(our_output), started));
}

absl::StatusOr<bool> MonitorProcess::ReadOutput(absl::string_view wanted, MonotonicTime deadline) {
  const int64_t left = absl::ToInt64Milliseconds(deadline - MonotonicTime::Now());
  pollfd ready = {.fd = output_.get(), .events = POLLIN, .revents = 0};
  if (left <= 0 || poll(&ready, 1, static_cast<int>(left)) <= 0) {
    return absl::DeadlineExceededError(
        absl::StrCat("no \"", wanted,
                     "\"; last output: ", pending_.substr(pending_.size() - std::min<size_t>(pending_.size(), 400))));
  }
  char buffer[4096];
  const ssize_t bytes = read(output_.get(), buffer, sizeof(buffer));
  if (bytes <= 0) {
    return false;
  }
  pending_.append(buffer, static_cast<size_t>(bytes));
  return true;
}

absl::Status MonitorProcess::ReadSome(absl::string_view wanted, MonotonicTime deadline) {
  FERRITE_ASSIGN_OR_RETURN(const bool more, ReadOutput(wanted, deadline));
  return more ? absl::OkStatus()
              : absl::UnavailableError(
                    absl::StrCat("the process ended before \"", wanted, "\"; last output: ", pending_));
}

absl::StatusOr<std::string> MonitorProcess::ReadToEnd(absl::Duration timeout) {
  const MonotonicTime deadline = MonotonicTime::Now() + timeout;
  for (bool more = true; more;) {
    FERRITE_ASSIGN_OR_RETURN(more, ReadOutput("(its end)", deadline));
  }
  return std::exchange(pending_, "");
}

absl::StatusOr<double> MonitorProcess::WaitFor(absl::string_view text, absl::Duration timeout) {
  const MonotonicTime deadline = MonotonicTime::Now() + timeout;
  double read_at = Now();
  for (;;) {
    if (const size_t at = pending_.find(text.data(), 0, text.size()); at != std::string::npos) {
      pending_.erase(0, at + text.size());
      return read_at;
    }
    FERRITE_RETURN_IF_ERROR(ReadSome(text, deadline));
    read_at = Now();
  }
}

absl::StatusOr<std::string> MonitorProcess::WaitForLine(absl::string_view text, absl::Duration timeout) {
  const MonotonicTime deadline = MonotonicTime::Now() + timeout;
  for (;;) {
    if (const size_t at = pending_.find(text.data(), 0, text.size()); at != std::string::npos) {
      if (const size_t end = pending_.find('\n', at); end != std::string::npos) {
        const size_t before = pending_.rfind('\n', at);
        const size_t begin = before == std::string::npos ? 0 : before + 1;
        std::string line = pending_.substr(begin, end - begin);
        pending_.erase(0, end + 1);
        return line;
      }
    }
    FERRITE_RETURN_IF_ERROR(ReadSome(text, deadline));
  }
}

absl::Status MonitorProcess::Write(absl::string_view text) {
  return write(input_.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())
             ? absl::OkStatus()
             : ErrnoStatus("write to the console");
}

absl::StatusOr<double> MonitorProcess::WaitForEnd() {
  FERRITE_ASSIGN_OR_RETURN(const ChildEnd end, child_.Wait());
  for (const timeval& time : {end.usage.ru_utime, end.usage.ru_stime}) {
    cpu_seconds_ += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  }
  if (!end.exited || end.number != 0) {
    return absl::InternalError(absl::StrCat("the process ended with ", end.exited ? "code " : "signal ", end.number));
  }
  return Now();
}

double MonitorProcess::CpuSeconds() const {
  if (pid() < 0) {
    return cpu_seconds_;
  }
  // utime and stime, fields 14 and 15 (proc(5)), in ticks; threads that ended count too. The name before them may hold
  // anything but ends with the last parenthesis.
  std::stringstream text;
  text << std::ifstream(absl::StrCat("/proc/", pid(), "/stat")).rdbuf();
  std::istringstream fields(text.str().substr(text.str().rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) {
    fields >> skipped;
  }
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

uint64_t MonitorProcess::ResidentBytes() const {
  uint64_t size = 0;
  uint64_t resident = 0;
  std::ifstream(absl::StrCat("/proc/", pid(), "/statm")) >> size >> resident;
  return resident * static_cast<uint64_t>(getpagesize());
}

}  // namespace ferrite
