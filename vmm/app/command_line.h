// The ferrite command line: words in, one checked struct out.
#ifndef FERRITE_VMM_APP_COMMAND_LINE_H_
#define FERRITE_VMM_APP_COMMAND_LINE_H_

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/channel/address.h"
#include "migration/channel/address_range.h"
#include "vmm/console/console_hub.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

enum class Command {
  kRun,
  kReceive,
  kMove,
  kRecover,
  kDoctor,
  kPs,
  kInfo,
  kPause,
  kResume,
  kBalloon,
  kConsole,
  kEvents,
  kReset,
  kStop,
  kVersion,
};

// What `run` was told. Values are in range; files have not been looked at.
struct RunOptions {
  MachineConfig config;
  ConsoleSink console;
  bool detach = false;
  std::string log_path;     // empty: the run directory's
  bool debuggable = false;  // HideProcess() is left out
};

// What `receive` was told beside the name, the console, the log and `debuggable`, which are RunOptions'.
struct ReceiveOptions {
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

// What `move` was told.
struct MoveWish {
  enum class Action { kMove, kStatus, kCancel, kStartPostcopy };
  Action action = Action::kMove;
  std::string address;
  migration::MoveOptions options;
  bool here = false;  // `recover --here`
};

struct CommandLine {
  Command command = Command::kVersion;
  std::string run_dir;  // --run-dir, or empty
  bool json = false;
  std::string name;  // the machine; not for run and receive
  RunOptions run;
  ReceiveOptions receive;
  MoveWish move;
  std::optional<uint64_t> balloon_bytes;
  bool wait = false;
  bool force = false;  // `stop`, `recover --here`
  absl::Duration timeout;
};

// The command line is done with: print `text` to standard output, or with an exit code that is not 0 to standard error.
struct ParseEnd {
  int exit_code;
  std::string text;
};

// `words` without the program's name.
std::variant<CommandLine, ParseEnd> ParseCommandLine(std::vector<std::string> words);

// "[id=ID,]path=PATH[,ro]"; `index` gives a disk without an id its own: "disk0".
absl::StatusOr<DiskConfig> ParseDisk(absl::string_view text, size_t index);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_COMMAND_LINE_H_
