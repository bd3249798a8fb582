// A command of ferrite: its words on the command line, their checks, and what it does.
#ifndef FERRITE_VMM_APP_COMMAND_H_
#define FERRITE_VMM_APP_COMMAND_H_

#include <cstdint>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace ferrite {

class Command {
 public:
  // The words of `ferrite --help` for it.
  struct Help {
    const char* name;     // the word that chooses it
    const char* what;     // a line
    const char* example;  // a line, or more
  };

  explicit Command(const Help& help) : help_(help) {}
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  virtual ~Command() = default;

  const Help& help() const { return help_; }
  // Adds its options to `app`. To parse writes into this object, which has to outlive that.
  virtual void AddTo(CLI::App& app) = 0;
  // Checks what was parsed and makes values of the words, which are in range then; no file has been looked at.
  // INVALID_ARGUMENT names the option.
  virtual absl::Status Finish() = 0;
  // Does it, which prints. `started_ns` is when the process began, as MonotonicNs() has it. Returns the exit code.
  virtual int Run(int64_t started_ns) = 0;

  // The caller's descriptor that it writes to, beside the standard ones; -1: none.
  virtual int descriptor() const { return -1; }
  // Whether it needs /proc. Descriptors are used by their links there: those of run directories, of sockets, of what a
  // path was found to be.
  virtual bool needs_procfs() const { return true; }

 private:
  const Help help_;
};

// A command whose words are made into `OptionsOf`.
template <typename OptionsOf>
class CommandWith : public Command {
 public:
  using Command::Command;

  // After Finish().
  const OptionsOf& options() const { return options_; }

 protected:
  OptionsOf options_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_COMMAND_H_
