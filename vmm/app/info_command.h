// `ferrite info`: shows a machine.
#ifndef FERRITE_VMM_APP_INFO_COMMAND_H_
#define FERRITE_VMM_APP_INFO_COMMAND_H_

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

class InfoCommand final : public Command {
 public:
  struct Options {
    MachineOptions machine;
    bool json = false;
  };

  InfoCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  Options options_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_INFO_COMMAND_H_
