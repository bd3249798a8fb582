// `ferrite version`: prints the version.
#ifndef FERRITE_VMM_APP_VERSION_COMMAND_H_
#define FERRITE_VMM_APP_VERSION_COMMAND_H_

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

class VersionCommand final : public Command {
 public:
  struct Options {
    std::string run_dir;  // --run-dir, or empty
    bool json = false;
  };

  VersionCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;
  bool needs_procfs() const override { return false; }

  const Options& options() const { return options_; }

 private:
  Options options_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_VERSION_COMMAND_H_
