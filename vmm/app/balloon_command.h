// `ferrite balloon`: shows or sets a machine's balloon.
#ifndef FERRITE_VMM_APP_BALLOON_COMMAND_H_
#define FERRITE_VMM_APP_BALLOON_COMMAND_H_

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

class BalloonCommand final : public Command {
 public:
  struct Options {
    MachineOptions machine;
    std::optional<uint64_t> bytes;
    bool wait = false;
    bool json = false;
  };

  BalloonCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  Options options_;
  std::string size_;  // `bytes` as it was written
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_BALLOON_COMMAND_H_
