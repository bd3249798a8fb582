// `ferrite receive`: waits for a machine that moves here, then runs it as `run` does.
#ifndef FERRITE_VMM_APP_RECEIVE_COMMAND_H_
#define FERRITE_VMM_APP_RECEIVE_COMMAND_H_

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/rdma_options.h"
#include "migration/api/tls_options.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/address_range.h"
#include "vmm/app/command.h"
#include "vmm/app/monitor_options.h"
#include "vmm/machine/machine_config.h"
#include "vmm/move/arrival_options.h"

namespace ferrite {

struct ReceiveCommandOptions {
  std::string name;
  MonitorOptions monitor;
  migration::Address listen;
  // ArrivalOptions'.
  std::map<std::string, std::string> disk_paths;
  std::vector<std::string> disk_from;
  std::map<std::string, ArrivalOptions::DiskCopy> disk_copies;
  std::string disk_copy_dir;
  bool trust_disks = false;
  std::string kernel_path;
  std::string initrd_path;  // not without kernel_path
  std::vector<std::string> boot_from;
  bool lock_memory = false;
  bool dirty_ring = false;
  std::vector<migration::AddressRange> from;  // who may connect; empty: everybody
  migration::TlsOptions tls;
  migration::RdmaOptions rdma;
  uint64_t max_memory_bytes = std::numeric_limits<uint64_t>::max();
  uint32_t max_cpus = kMaxCpus;
  uint64_t max_disk_bytes = ArrivalLimits().disk_bytes;
  absl::Duration patience = migration::MoveOptions().patience;
  int ready_fd = -1;  // -1: none
};

std::unique_ptr<Command> MakeReceiveCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RECEIVE_COMMAND_H_
