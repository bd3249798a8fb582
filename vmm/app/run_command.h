// `ferrite run`: makes a machine and runs it to its end.
#ifndef FERRITE_VMM_APP_RUN_COMMAND_H_
#define FERRITE_VMM_APP_RUN_COMMAND_H_

#include <map>
#include <string>
#include <vector>

#include "vmm/app/command.h"
#include "vmm/app/monitor_options.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

class RunCommand final : public Command {
 public:
  struct Options {
    MachineConfig config;
    MonitorOptions monitor;
    bool detach = false;
    bool json = false;
  };

  RunCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  // Of one kind of device, as its option takes them.
  struct DeviceWords {
    bool flag = false;
    std::string value;
    std::vector<std::string> values;
  };
  // Words that are more than a string or a number.
  struct Words {
    std::string memory = "512M";
    std::string console;
    std::string backing = "memfd";
    std::map<const DeviceKind*, DeviceWords> devices;
    bool no_reboot = false;
  };
  absl::Status ParseDevices();
  absl::Status FinishConfig();

  Options options_;
  Words words_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RUN_COMMAND_H_
