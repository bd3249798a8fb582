// `ferrite stop`: ends a machine, and waits for the end of its monitor.
#ifndef FERRITE_VMM_APP_STOP_COMMAND_H_
#define FERRITE_VMM_APP_STOP_COMMAND_H_

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

class StopCommand final : public Command {
 public:
  struct Options {
    MachineOptions machine;
    bool force = false;
  };

  StopCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  Options options_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_STOP_COMMAND_H_
