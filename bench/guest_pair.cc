#include "bench/guest_pair.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "bench/qemu_boot.h"
#include "bench/qmp_client.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr char kPayload[] = "tests/guest/dirty";
constexpr double kMs = 1e3;
constexpr double kUs = 1e6;
constexpr int kMultifdChannels = 2;
constexpr char kTlsHostname[] = "localhost";  // in the destination's certificate
constexpr absl::Duration kAccountLimit = absl::Seconds(10);
constexpr absl::Duration kAccountPoll = absl::Milliseconds(1);
// More than any host has: QEMU's own limit is 128 MiB/s.
constexpr int64_t kNoBandwidthLimit = 1'000'000'000'000;

class FerritePair final : public GuestPair {
 public:
  FerritePair(const Contender& how, const PairSetup& setup) : GuestPair(setup), how_(how) {}

  absl::Status StartSource() override {
    std::vector<std::string> arguments = {Program(),      "run",
                                          "--debuggable",  // for /proc/PID/smaps
                                          "--run-dir",    Side("here"),
                                          "--name",       "bench",
                                          "--kernel",     DataPath(kPayload),
                                          "--mem",        absl::StrCat(setup_.memory_mib, "M"),
                                          "--console",    "stdio",
                                          "--cmdline",    setup_.command_line};
    arguments.insert(arguments.end(), setup_.run_arguments.begin(), setup_.run_arguments.end());
    FERRITE_ASSIGN_OR_RETURN(source_, MonitorProcess::Start(std::move(arguments)));
    return absl::OkStatus();
  }

  absl::Status StartDestination() override {
    const std::string listen =
        setup_.socket == SocketKind::kTcp ? "tcp:127.0.0.1:0" : absl::StrCat("unix:", setup_.directory, "/socket");
    std::vector<std::string> arguments = {Program(),          "receive",   "--debuggable", "--run-dir", Side("there"),
                                          "--name",           "bench",     "--listen",     listen,      "--kernel",
                                          DataPath(kPayload), "--console", "stdio"};
    if (how_.tls) {
      arguments.insert(arguments.end(), {"--tls-dir", setup_.tls_directory});
    }
    FERRITE_ASSIGN_OR_RETURN(destination_, MonitorProcess::Start(std::move(arguments)));
    FERRITE_ASSIGN_OR_RETURN(const std::string line, destination_->WaitForLine(" waits at ", kLimit));
    address_ = line.substr(line.rfind(' ') + 1);
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Move() override {
    const char* const mode = how_.way == MoveWay::kPrecopy ? "precopy"
                             : how_.way == MoveWay::kAuto  ? "auto"
                                                           : "postcopy";
    std::vector<std::string> arguments = {Program(),
                                          "move",
                                          "--run-dir",
                                          Side("here"),
                                          "bench",
                                          address_,
                                          "--mode",
                                          mode,
                                          "--downtime-limit",
                                          absl::StrCat(absl::ToInt64Milliseconds(setup_.downtime_limit), "ms"),
                                          "--json"};
    if (how_.multifd) {
      arguments.insert(arguments.end(), {"--channels", absl::StrCat(kMultifdChannels)});
    }
    if (how_.tls) {
      arguments.insert(arguments.end(), {"--tls-dir", setup_.tls_directory, "--tls-hostname", kTlsHostname});
    }
    arguments.insert(arguments.end(), setup_.move_arguments.begin(), setup_.move_arguments.end());
    FERRITE_ASSIGN_OR_RETURN(const auto move, MonitorProcess::Start(std::move(arguments)));
    FERRITE_ASSIGN_OR_RETURN(const std::string line, move->WaitForLine("\"over\":true", kLimit));
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.value("ok", false)) {
      return absl::InternalError(absl::StrCat("the move failed: ", line));
    }
    FERRITE_ASSIGN_OR_RETURN(const double end, move->WaitForEnd());
    const Json& report = json["report"];
    Json figures = {{"total_ms", (end - move->started()) * kMs},
                    {"account_total_ms", report.value("total_seconds", 0.0) * kMs},
                    {"downtime_ms", report.value("downtime_seconds", 0.0) * kMs},
                    {"bytes", report.value("bytes", 0.0)},
                    {"faults", report.value("faults", 0.0)},
                    {"report", report}};
    for (const Json& waiting : report["waiting"]) {
      if (!waiting["vcpu"].is_null()) {
        figures["account_wait_p50_us"] = waiting.value("p50_seconds", 0.0) * kUs;
        figures["account_wait_p99_us"] = waiting.value("p99_seconds", 0.0) * kUs;
      }
    }
    return figures;
  }

  absl::Status EndSource() override { return source_->WaitForEnd().status(); }
  absl::Status Pause() override { return Command("pause", "here"); }
  absl::Status Resume() override { return Command("resume", "there"); }
  const char* vcpu_threads() const override { return "vcpu-"; }

 private:
  absl::Status Command(const char* word, const char* side) {
    FERRITE_ASSIGN_OR_RETURN(const auto command,
                             MonitorProcess::Start({Program(), word, "--run-dir", Side(side), "bench"}));
    return Annotate(command->WaitForEnd().status(), word);
  }

  std::string Program() const { return DataPath("vmm/app/ferrite"); }
  std::string Side(const char* side) const { return absl::StrCat(setup_.directory, "/", side); }

  const Contender how_;
  std::string address_;
};

class QemuPair final : public GuestPair {
 public:
  QemuPair(const Contender& how, const PairSetup& setup) : GuestPair(setup), how_(how) {}

  absl::Status StartSource() override {
    FERRITE_RETURN_IF_ERROR(Start("source.qmp", Credentials("client"), source_, source_qmp_));
    return SetUp(*source_qmp_);
  }

  absl::Status StartDestination() override {
    std::vector<std::string> arguments = Credentials("server");
    arguments.insert(arguments.end(), {"-incoming", "defer"});
    FERRITE_RETURN_IF_ERROR(Start("destination.qmp", std::move(arguments), destination_, destination_qmp_));
    FERRITE_RETURN_IF_ERROR(SetUp(*destination_qmp_));
    const std::string listen =
        setup_.socket == SocketKind::kTcp ? "tcp:127.0.0.1:0" : absl::StrCat("unix:", setup_.directory, "/socket");
    FERRITE_RETURN_IF_ERROR(destination_qmp_->Execute("migrate-incoming", {{"uri", listen}}).status());
    if (setup_.socket == SocketKind::kUnix) {
      address_ = listen;
      return absl::OkStatus();
    }
    FERRITE_ASSIGN_OR_RETURN(const Json state, destination_qmp_->Execute("query-migrate"));
    const Json port = state.value(Json::json_pointer("/socket-address/0/port"), Json());
    if (!port.is_string()) {
      return absl::InternalError(absl::StrCat("QEMU does not say where it listens: ", state.dump()));
    }
    address_ = absl::StrCat("tcp:127.0.0.1:", port.get<std::string>());
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Move() override {
    const double start = Now();
    FERRITE_RETURN_IF_ERROR(source_qmp_->Execute("migrate", {{"uri", address_}}).status());
    if (how_.way != MoveWay::kPrecopy) {
      // Its second pass begins when the first is over.
      const int64_t pass = how_.way == MoveWay::kPostcopy ? 1 : 2;
      FERRITE_RETURN_IF_ERROR(WaitFor(*source_qmp_, [pass](const Json& event) {
        return event["event"] == "MIGRATION_PASS" && event["data"]["pass"] == pass;
      }));
      FERRITE_RETURN_IF_ERROR(source_qmp_->Execute("migrate-start-postcopy").status());
    }
    const auto completed = [](const Json& event) {
      return event["event"] == "MIGRATION" && event["data"]["status"] == "completed";
    };
    FERRITE_RETURN_IF_ERROR(WaitFor(*destination_qmp_, completed));
    FERRITE_RETURN_IF_ERROR(WaitFor(*source_qmp_, completed));
    const double end = Now();
    FERRITE_ASSIGN_OR_RETURN(const Json report, Account());
    const double total = report.value("total-time", 0.0);
    return Json{{"total_ms", total},
                {"account_total_ms", total},
                {"whole_ms", (end - start) * kMs},
                {"downtime_ms", report.value("downtime", 0.0)},
                {"bytes", report.value(Json::json_pointer("/ram/transferred"), 0.0)},
                {"faults", report.value(Json::json_pointer("/ram/postcopy-requests"), 0.0)},
                {"report", report}};
  }

  absl::Status EndSource() override {
    FERRITE_RETURN_IF_ERROR(source_qmp_->Execute("quit").status());
    return source_->WaitForEnd().status();
  }
  absl::Status Pause() override { return source_qmp_->Execute("stop").status(); }
  absl::Status Resume() override { return destination_qmp_->Execute("cont").status(); }
  const char* vcpu_threads() const override { return "CPU "; }

 private:
  std::vector<std::string> Credentials(const char* endpoint) const {
    if (!how_.tls) {
      return {};
    }
    return {"-object", absl::StrCat("tls-creds-x509,id=", kCredentials, ",endpoint=", endpoint,
                                    ",verify-peer=on,dir=", setup_.tls_directory)};
  }

  absl::Status Start(const char* socket, std::vector<std::string> more, std::unique_ptr<MonitorProcess>& process,
                     std::unique_ptr<QmpClient>& qmp) {
    const std::string path = absl::StrCat(setup_.directory, "/", socket);
    FERRITE_ASSIGN_OR_RETURN(qmp, QmpClient::Listen(path));
    FERRITE_ASSIGN_OR_RETURN(
        std::vector<std::string> arguments,
        QemuArguments(setup_.qemu, setup_.directory, DataPath(kPayload), setup_.memory_mib, setup_.command_line));
    arguments.insert(arguments.end(), {"-qmp", absl::StrCat("unix:", path)});
    arguments.insert(arguments.end(), more.begin(), more.end());
    FERRITE_ASSIGN_OR_RETURN(process, MonitorProcess::Start(std::move(arguments)));
    if (const absl::Status here = qmp->Accept(kLimit); !here.ok()) {
      // What it complained about.
      return Annotate(here, process->WaitFor("(all of it)", absl::Seconds(1)).status().message());
    }
    return absl::OkStatus();
  }

  // QEMU tells that the migration is over before it has written down how long it took.
  absl::StatusOr<Json> Account() {
    for (const MonotonicTime deadline = MonotonicTime::Now() + kAccountLimit;;) {
      FERRITE_ASSIGN_OR_RETURN(Json report, source_qmp_->Execute("query-migrate"));
      if (report.value("total-time", 0.0) > 0) {
        return report;
      }
      if (MonotonicTime::Now() > deadline) {
        return absl::DeadlineExceededError(absl::StrCat("QEMU has no account of the migration: ", report.dump()));
      }
      absl::SleepFor(kAccountPoll);
    }
  }

  absl::Status SetUp(QmpClient& qmp) const {
    Json capabilities = Json::array();
    for (const auto& [name, on] :
         {std::pair("events", true), std::pair("multifd", how_.multifd),
          std::pair("postcopy-ram", how_.way != MoveWay::kPrecopy), std::pair("postcopy-preempt", how_.preempt)}) {
      if (on) {
        capabilities.push_back({{"capability", name}, {"state", true}});
      }
    }
    FERRITE_RETURN_IF_ERROR(
        qmp.Execute("migrate-set-capabilities", {{"capabilities", std::move(capabilities)}}).status());
    Json parameters = {{"max-bandwidth", kNoBandwidthLimit},
                       {"downtime-limit", absl::ToInt64Milliseconds(setup_.downtime_limit)}};
    if (how_.multifd) {
      parameters["multifd-channels"] = kMultifdChannels;
    }
    if (how_.tls) {
      parameters["tls-creds"] = kCredentials;
      parameters["tls-hostname"] = kTlsHostname;
    }
    return qmp.Execute("migrate-set-parameters", std::move(parameters)).status();
  }

  // The event; an error when the migration fails first.
  static absl::Status WaitFor(QmpClient& qmp, const std::function<bool(const Json&)>& wanted) {
    return qmp
        .WaitForEvent(
            [&](const Json& event) -> absl::StatusOr<bool> {
              if (event["event"] == "MIGRATION" && event["data"]["status"] == "failed") {
                return absl::InternalError("QEMU's migration failed");
              }
              return wanted(event);
            },
            kLimit)
        .status();
  }

  static constexpr char kCredentials[] = "credentials";

  const Contender how_;
  std::string address_;
  std::unique_ptr<QmpClient> source_qmp_;
  std::unique_ptr<QmpClient> destination_qmp_;
};

}  // namespace

std::string Contender::Name() const {
  const char* const names[] = {"precopy", "postcopy", "one round, postcopy", "auto"};
  return absl::StrCat(qemu ? "QEMU " : "ferrite ", names[static_cast<size_t>(way)],
                      !multifd ? ""
                      : qemu   ? " multifd"
                               : absl::StrCat(" ", kMultifdChannels, " channels"),
                      preempt ? " preempt" : "", tls ? " TLS" : "");
}

std::unique_ptr<GuestPair> GuestPair::Make(const Contender& contender, const PairSetup& setup) {
  if (contender.qemu) {
    return std::make_unique<QemuPair>(contender, setup);
  }
  return std::make_unique<FerritePair>(contender, setup);
}

// Without option ROMs, as QEMU's documentation recommends (docs/system/i386/microvm), and without what the guest does
// not look for. The feature is one that not every KVM lets QEMU set.
absl::StatusOr<std::vector<std::string>> QemuArguments(const std::string& qemu, const std::string& directory,
                                                       const std::string& payload, uint64_t memory_mib,
                                                       const std::string& command_line) {
  std::vector<std::string> arguments = {
      // What it complains about is to be seen where the guest's console is.
      "/bin/sh",
      "-c",
      "exec \"$@\" 2>&1",
      "sh",
      qemu,
      "-M",
      "microvm,x-option-roms=off,auto-kernel-cmdline=off,rtc=off,memory-backend=ram",
      "-accel",
      "kvm",
      "-cpu",
      "host,-arch-capabilities",
      "-m",
      absl::StrCat(memory_mib, "M"),
      "-object",
      absl::StrCat("memory-backend-ram,id=ram,size=", memory_mib, "M"),
      "-smp",
      "1",
      "-name",
      "bench,debug-threads=on",
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
      "-serial",
      "stdio",
  };
  FERRITE_ASSIGN_OR_RETURN(const std::vector<std::string> boot,
                           MakeQemuBoot(directory, payload, memory_mib << 20, command_line));
  arguments.insert(arguments.end(), boot.begin(), boot.end());
  return arguments;
}

}  // namespace ferrite
