// A terminal in raw mode, and back.
#ifndef FERRITE_VMM_CONSOLE_RAW_TERMINAL_H_
#define FERRITE_VMM_CONSOLE_RAW_TERMINAL_H_

#include <memory>

#include "absl/status/statusor.h"

namespace ferrite {

// Puts a terminal into raw mode (keys come at once, unechoed, and Ctrl-c is a byte; output keeps its newlines) for as
// long as the object lives. exit() and the signals of a crash restore it, too; SIGKILL cannot. One at a time in a
// process.
class RawTerminal {
 public:
  // FAILED_PRECONDITION when `fd` is no terminal, or when this process is in its background (changing the terminal
  // would stop the process).
  static absl::StatusOr<std::unique_ptr<RawTerminal>> Create(int fd);
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal();

  // For a process that ends by _exit(): if there is one, its terminal is as it was before.
  static void Restore();

 private:
  RawTerminal() = default;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONSOLE_RAW_TERMINAL_H_
