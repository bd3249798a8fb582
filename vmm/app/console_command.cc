#include "vmm/app/console_command.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>
#include <utility>

#include "base/poll.h"
#include "base/status.h"
#include "vmm/app/commands.h"
#include "vmm/console/escape_filter.h"
#include "vmm/console/raw_terminal.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

constexpr size_t kMaxPending = 64 << 10;

bool WriteAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size);
    if (n < 0 && errno != EINTR) {
      return false;
    }
    if (n > 0) {
      data += n;
      size -= static_cast<size_t>(n);
    }
  }
  return true;
}

// Copies between the terminal (or whatever standard input and output are) and the console until either ends.
class ConsoleSession {
 public:
  ConsoleSession(Fd console, bool escapes) : console_(std::move(console)), escapes_(escapes) {}

  void Run() {
    bool input_open = true;
    while (!left_) {
      const bool pending = !to_guest_.empty();
      pollfd polled[] = {{console_.get(), static_cast<short>(POLLIN | (pending ? POLLOUT : 0)), 0},
                         {input_open && (!pending || escapes_) ? STDIN_FILENO : -1, POLLIN, 0}};
      (void)PollFor(polled, absl::InfiniteDuration());
      if ((polled[0].revents & ~POLLOUT) != 0 && !CopyOutput()) {
        return;
      }
      if ((polled[0].revents & POLLOUT) != 0) {
        SendInput();
      }
      if (polled[1].revents != 0) {
        // The output is still shown at the end of the input: `ferrite console NAME < /dev/null` follows a machine.
        input_open = ReadInput();
      }
    }
  }

 private:
  bool CopyOutput() {
    char buffer[4096];
    // Another reader of the same socket may have been faster.
    const ssize_t n = recv(console_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    return (n < 0 && (errno == EINTR || errno == EAGAIN)) ||
           (n > 0 && WriteAll(STDOUT_FILENO, buffer, static_cast<size_t>(n)));
  }

  // The guest may take its time; its output is shown meanwhile.
  void SendInput() {
    const ssize_t n = send(console_.get(), to_guest_.data(), to_guest_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // A console that is gone is noticed when it is read.
    to_guest_.erase(0, n > 0 ? static_cast<size_t>(n) : 0);
  }

  bool ReadInput() {
    uint8_t buffer[4096];
    const ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (n <= 0) {
      return n < 0 && errno == EINTR;
    }
    const std::span<const uint8_t> typed(buffer, static_cast<size_t>(n));
    if (!escapes_) {
      to_guest_.assign(typed.begin(), typed.end());
      return true;
    }
    EscapeFilter::Result result = filter_.Feed(typed);
    if (result.help) {
      const std::string help = EscapeHelp("leave the console, the machine runs on");
      (void)WriteAll(STDOUT_FILENO, help.data(), help.size());
    }
    // A terminal is read for its escape keys also while the guest takes nothing; then what is too much is lost.
    to_guest_.append(result.to_guest, 0, kMaxPending - std::min(kMaxPending, to_guest_.size()));
    left_ = result.leave;
    return true;
  }

  const Fd console_;
  const bool escapes_;
  EscapeFilter filter_;
  std::string to_guest_;
  bool left_ = false;
};

class ConsoleCommand final : public CommandWith<ConsoleCommandOptions> {
 public:
  ConsoleCommand()
      : CommandWith({"console", "Use a machine's serial console; Ctrl-a x leaves it, the machine runs on",
                     "ferrite console web1"}) {}

  void AddTo(CLI::App& app) override { AddMachine(app, options_.machine); }

  absl::Status Finish() override { return CheckMachineName(options_.machine.name); }

  int Run(int64_t /*started_ns*/) override {
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      auto console = client.AttachConsole();
      if (!console.ok()) {
        return Fail(console.status());
      }
      // A pipe or a file as standard input is copied as it is.
      const auto terminal = RawTerminal::Create(STDIN_FILENO);
      if (terminal.ok()) {
        fmt::print(stderr, "[ferrite] console of {}; Ctrl-a x leaves it, Ctrl-a h helps\n", options_.machine.name);
      }
      ConsoleSession(*std::move(console), terminal.ok()).Run();
      return kExitOk;
    });
  }
};

}  // namespace

std::unique_ptr<Command> MakeConsoleCommand() { return std::make_unique<ConsoleCommand>(); }

}  // namespace ferrite
