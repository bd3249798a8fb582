#include "vmm/console/raw_terminal.h"

#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>

#include "base/status.h"

namespace ferrite {
namespace {

// What a signal handler needs. Written before `raw_fd` says that it is valid.
std::atomic<int> raw_fd = -1;
termios saved;

// Async-signal-safe.
void RestoreSettings() {
  const int fd = raw_fd.exchange(-1);
  if (fd >= 0) {
    (void)tcsetattr(fd, TCSANOW, &saved);
  }
}

void RestoreAndDie(int signal) {
  RestoreSettings();
  struct sigaction default_action = {};
  default_action.sa_handler = SIG_DFL;
  (void)sigaction(signal, &default_action, nullptr);
  (void)raise(signal);
}

// Once in a process. Handlers that somebody else put there (a sanitizer) stay.
bool InstallExits() {
  (void)atexit(RestoreSettings);
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGQUIT}) {
    struct sigaction before = {};
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_DFL) {
      struct sigaction action = {};
      action.sa_handler = RestoreAndDie;
      (void)sigaction(signal, &action, nullptr);
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RawTerminal>> RawTerminal::Create(int fd) {
  FERRITE_CHECK(raw_fd.load() < 0);
  if (isatty(fd) == 0) {
    return absl::FailedPreconditionError("not a terminal");
  }
  if (tcgetpgrp(fd) != getpgrp()) {
    return absl::FailedPreconditionError("in the background of its terminal");
  }
  termios settings;
  if (tcgetattr(fd, &settings) != 0) {
    return ErrnoStatus("read the terminal's settings");
  }
  static const bool installed = InstallExits();
  (void)installed;
  saved = settings;
  raw_fd = fd;
  cfmakeraw(&settings);
  settings.c_oflag |= OPOST;
  if (tcsetattr(fd, TCSANOW, &settings) != 0) {
    raw_fd = -1;
    return ErrnoStatus("set the terminal to raw mode");
  }
  return std::unique_ptr<RawTerminal>(new RawTerminal());
}

void RawTerminal::Restore() { RestoreSettings(); }

RawTerminal::~RawTerminal() { Restore(); }

}  // namespace ferrite
