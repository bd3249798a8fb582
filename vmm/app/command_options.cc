#include "vmm/app/command_options.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr int kMaxTimeoutSeconds = 86'400;
// A step may need that long on a loaded host: less is no patience, and what is derived from it would round to nothing.
constexpr absl::Duration kLeastPatience = absl::Seconds(1);

}  // namespace

void AddRunDir(CLI::App& app, std::string& run_dir) {
  app.add_option("--run-dir", run_dir,
                 "Directory of the machines' run directories [/run/ferrite, $XDG_RUNTIME_DIR/ferrite]")
      ->type_name("DIR");
}

void AddMachine(CLI::App& app, MachineOptions& machine) {
  AddRunDir(app, machine.run_dir);
  app.add_option("name", machine.name, "The machine")->required()->type_name("NAME");
}

void AddTimeout(CLI::App& app, MachineOptions& machine) {
  app.add_option_function<int>(
         "--timeout", [&machine](const int& seconds) { machine.timeout = absl::Seconds(seconds); },
         "How long to wait for the machine [30]")
      ->type_name("SECONDS")
      ->check(InRange(1, kMaxTimeoutSeconds));
}

void AddJson(CLI::App& app, bool& json) { app.add_flag("--json", json, "Print JSON"); }

void AddLogAndDebuggable(CLI::App& app, MonitorOptions& monitor) {
  app.add_option("--log", monitor.log_path, "Append the log to FILE, which stays [a file in the run directory]")
      ->type_name("FILE");
  app.add_flag("--debuggable", monitor.debuggable,
               "Let other processes of this user look into the monitor and the guest's memory: debuggers, and cores");
}

void AddTls(CLI::App& app, migration::TlsOptions& tls, TlsOf side) {
  const bool is_source = side == TlsOf::kSource;
  app.add_option("--tls-dir", tls.directory,
                 is_source ? "Move over TLS 1.3 with ca-cert.pem, client-cert.pem and client-key.pem of DIR [in plain]"
                           : "Take TLS 1.3 alone, with ca-cert.pem, server-cert.pem and server-key.pem of DIR [plain]")
      ->type_name("DIR");
  app.add_option("--tls-psk", tls.psk_file,
                 is_source ? "In place of --tls-dir: the first key of FILE, lines of IDENTITY:HEX"
                           : "In place of --tls-dir: keys that sources have, too; lines of IDENTITY:HEX")
      ->type_name("FILE");
  if (is_source) {
    app.add_option("--tls-hostname", tls.hostname,
                   "The name that the destination's certificate has to have [the host of ADDRESS]")
        ->type_name("NAME");
  }
}

absl::Status FinishTls(migration::TlsOptions& tls) {
  if (!tls.directory.empty() && !tls.psk_file.empty()) {
    return absl::InvalidArgumentError("give one of --tls-dir and --tls-psk");
  }
  if (!tls.hostname.empty() && tls.directory.empty()) {
    return absl::InvalidArgumentError("--tls-hostname: it is looked for in a certificate; give --tls-dir, too");
  }
  // They are opened by a monitor, which is in another directory.
  for (std::string* const path : {&tls.directory, &tls.psk_file}) {
    if (!path->empty()) {
      std::error_code error;
      const std::filesystem::path absolute = std::filesystem::absolute(*path, error);
      if (error) {
        return ErrnoStatus(error.value(), absl::StrCat("resolve ", *path));
      }
      *path = absolute.string();
    }
  }
  return absl::OkStatus();
}

void AddRdma(CLI::App& app, RdmaWords& words) {
  app.add_option("--rdma-pin", words.pin,
                 "Over rdma: what of the memory is registered, and so allocated and pinned: chunks (that pages go to "
                 "or come from) or all [chunks]")
      ->type_name("WHAT")
      ->check(CLI::IsMember({"chunks", "all"}));
  app.add_option("--rdma-chunk", words.chunk, "How large these chunks are: a power of two, 2M to 1G [32M]")
      ->type_name("SIZE");
}

absl::Status FinishRdma(const RdmaWords& words, const migration::Address& address, const migration::TlsOptions& tls,
                        migration::RdmaOptions& out) {
  const bool is_rdma = address.kind == migration::Address::Kind::kRdma;
  if (!is_rdma && !(words.pin.empty() && words.chunk.empty())) {
    return absl::InvalidArgumentError(absl::StrCat(words.pin.empty() ? "--rdma-chunk" : "--rdma-pin",
                                                   ": that is for rdma:HOST:PORT, and this is ", address.ToString()));
  }
  if (is_rdma && tls.on()) {
    return absl::InvalidArgumentError(
        "--tls-dir, --tls-psk: what goes over RDMA is not encrypted; use tcp:HOST:PORT for TLS");
  }
  out.pin = words.pin == "all" ? migration::RdmaPin::kAll : migration::RdmaPin::kChunks;
  if (!words.chunk.empty()) {
    const absl::StatusOr<uint64_t> bytes = ParseByteSize(words.chunk);
    FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), "--rdma-chunk"));
    out.chunk_bytes = *bytes;
    if (!migration::IsRdmaChunk(out.chunk_bytes)) {
      return absl::InvalidArgumentError(absl::StrCat("--rdma-chunk: \"", words.chunk, "\" is no power of two from ",
                                                     FormatByteSize(migration::kLeastRdmaChunk), " to ",
                                                     FormatByteSize(migration::kMostRdmaChunk)));
    }
  }
  return absl::OkStatus();
}

CLI::Option* Repeatable(CLI::Option* option) {
  return option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

std::function<std::string(const std::string&)> InRange(int min, int max) {
  return [min, max](const std::string& text) -> std::string {
    int number = 0;
    if (!absl::SimpleAtoi(text, &number)) {
      return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 40)), "\" is not a number from ", min, " to ", max);
    }
    return number < min || number > max ? absl::StrCat(number, " is not in the range ", min, " to ", max) : "";
  };
}

absl::Status ReadDuration(absl::string_view option, const std::string& text, absl::Duration& out) {
  if (text.empty()) {
    return absl::OkStatus();
  }
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration <= absl::ZeroDuration() ||
      duration == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": \"", absl::CHexEscape(text), "\" is no time; write it as 50ms, 2s or 10m"));
  }
  out = duration;
  return absl::OkStatus();
}

absl::Status ReadDurationOrNone(absl::string_view option, const std::string& text, absl::Duration& out) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration == absl::ZeroDuration()) {
    out = duration;
    return absl::OkStatus();
  }
  return ReadDuration(option, text, out);
}

absl::Status ReadPatience(const std::string& text, absl::Duration& out) {
  FERRITE_RETURN_IF_ERROR(ReadDuration("--patience", text, out));
  if (out < kLeastPatience) {
    return absl::InvalidArgumentError(
        absl::StrCat("--patience: \"", text, "\" is too short; the least is ", absl::FormatDuration(kLeastPatience)));
  }
  return absl::OkStatus();
}

}  // namespace ferrite
