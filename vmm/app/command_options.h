// Options that several commands have.
#ifndef FERRITE_VMM_APP_COMMAND_OPTIONS_H_
#define FERRITE_VMM_APP_COMMAND_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/api/tls_options.h"
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
