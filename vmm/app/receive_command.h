// `ferrite receive`: waits for a machine that moves here, then runs it as `run` does.
#ifndef FERRITE_VMM_APP_RECEIVE_COMMAND_H_
#define FERRITE_VMM_APP_RECEIVE_COMMAND_H_

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/channel/address.h"
#include "migration/channel/address_range.h"
#include "vmm/app/command.h"
#include "vmm/app/monitor_options.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

class ReceiveCommand final : public Command {
 public:
  struct Options {
    std::string name;
    MonitorOptions monitor;
    migration::Address listen;
    // ArrivalOptions'.
    std::map<std::string, std::string> disk_paths;
    std::vector<std::string> disk_from;
    bool trust_disks = false;
    std::string kernel_path;
    std::string initrd_path;  // not without kernel_path
    std::vector<std::string> boot_from;
    bool lock_memory = false;
    bool dirty_ring = false;
    std::vector<migration::AddressRange> from;  // who may connect; empty: everybody
    uint64_t max_memory_bytes = std::numeric_limits<uint64_t>::max();
    uint32_t max_cpus = kMaxCpus;
    absl::Duration patience = migration::MoveOptions().patience;
    int ready_fd = -1;  // -1: none
  };

  ReceiveCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;
  int descriptor() const override { return options_.ready_fd; }

  const Options& options() const { return options_; }

 private:
  // Words that are more than a string or a number.
  struct Words {
    std::string listen;
    std::vector<std::string> from;
    std::string max_memory;
    std::vector<std::string> disks;
    std::string console;
    std::string patience;
  };

  Options options_;
  Words words_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RECEIVE_COMMAND_H_
