// `ferrite recover`: goes on with a move that lost its connection, or takes the machine back.
#ifndef FERRITE_VMM_APP_RECOVER_COMMAND_H_
#define FERRITE_VMM_APP_RECOVER_COMMAND_H_

#include <string>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

class RecoverCommand final : public Command {
 public:
  struct Options {
    MachineOptions machine;
    std::string address;  // empty: where the destination was
    bool here = false;
    bool force = false;  // with `here`
    bool json = false;
  };

  RecoverCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  Options options_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RECOVER_COMMAND_H_
