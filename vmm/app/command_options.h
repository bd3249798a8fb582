// Options that several commands have.
#ifndef FERRITE_VMM_APP_COMMAND_OPTIONS_H_
#define FERRITE_VMM_APP_COMMAND_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/api/rdma_options.h"
#include "migration/api/tls_options.h"
#include "migration/channel/socket/address.h"
#include "vmm/app/monitor_options.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace ferrite {

// The machine that a command talks to.
struct MachineOptions {
  std::string run_dir;  // --run-dir, or empty
  std::string name;
  absl::Duration timeout = absl::Seconds(30);
};

// --run-dir, which every command takes.
void AddRunDir(CLI::App& app, std::string& run_dir);
// --run-dir and NAME.
void AddMachine(CLI::App& app, MachineOptions& machine);
void AddTimeout(CLI::App& app, MachineOptions& machine);
void AddJson(CLI::App& app, bool& json);
// --log and --debuggable.
void AddLogAndDebuggable(CLI::App& app, MonitorOptions& monitor);

// --tls-dir and --tls-psk; of a source --tls-hostname, too.
enum class TlsOf { kSource, kDestination };
void AddTls(CLI::App& app, migration::TlsOptions& tls, TlsOf side);
// What was said by them goes together; files are found from here (INVALID_ARGUMENT).
absl::Status FinishTls(migration::TlsOptions& tls);

// --rdma-pin and --rdma-chunk, as words.
struct RdmaWords {
  std::string pin;
  std::string chunk;
};
void AddRdma(CLI::App& app, RdmaWords& words);
// What was said by them into `out`. They go with an address of that kind alone, and with that no TLS goes
// (INVALID_ARGUMENT).
absl::Status FinishRdma(const RdmaWords& words, const migration::Address& address, const migration::TlsOptions& tls,
                        migration::RdmaOptions& out);

// One value each time.
CLI::Option* Repeatable(CLI::Option* option);
// A check as CLI::Range, which calls a word that is no number "not in range".
std::function<std::string(const std::string&)> InRange(int min, int max);

// A time as "50ms" into `out`, which stays where `text` is empty. INVALID_ARGUMENT names `option`.
absl::Status ReadDuration(absl::string_view option, const std::string& text, absl::Duration& out);
// The same, and none at all: "0", "0s".
absl::Status ReadDurationOrNone(absl::string_view option, const std::string& text, absl::Duration& out);
// --patience, likewise.
absl::Status ReadPatience(const std::string& text, absl::Duration& out);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_COMMAND_OPTIONS_H_
