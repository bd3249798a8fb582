#include "bench/start_row.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "bench/guest_pair.h"
#include "bench/memory_use.h"
#include "bench/monitor_process.h"
#include "bench/samples.h"
#include "bench/work_directory.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kLimit = absl::Seconds(60);
constexpr double kMs = 1e3;
constexpr char kPayload[] = "tests/guest/count";

// Of a monitor whose guest has begun, when that goes on.
absl::StatusOr<Json> Measure(MonitorProcess& monitor) {
  FERRITE_ASSIGN_OR_RETURN(const double ready, monitor.WaitFor("event=ready", kLimit));
  FERRITE_RETURN_IF_ERROR(monitor.WaitFor("event=count", kLimit).status());
  FERRITE_ASSIGN_OR_RETURN(const MemoryUse use, ReadMemoryUse(monitor.pid(), kStartMemoryMib << 20));
  return Json{{"start_ms", (ready - monitor.started()) * kMs},
              {"own_mib", static_cast<double>(use.own) / kMiBytes},
              {"own_changed_mib", static_cast<double>(use.anonymous + use.kernel) / kMiBytes}};
}

}  // namespace

absl::StatusOr<Json> MeasureFerriteStart(const std::vector<std::string>& run_arguments) {
  const WorkDirectory directory;
  const std::string program = DataPath("vmm/app/ferrite");
  std::vector<std::string> arguments = {program,
                                        "run",
                                        "--debuggable",
                                        "--run-dir",
                                        directory.path(),
                                        "--name",
                                        "bench",
                                        "--kernel",
                                        DataPath(kPayload),
                                        "--mem",
                                        absl::StrCat(kStartMemoryMib, "M"),
                                        "--console",
                                        "stdio"};
  arguments.insert(arguments.end(), run_arguments.begin(), run_arguments.end());
  FERRITE_ASSIGN_OR_RETURN(const auto monitor, MonitorProcess::Start(std::move(arguments)));
  FERRITE_ASSIGN_OR_RETURN(Json figures, Measure(*monitor));
  FERRITE_ASSIGN_OR_RETURN(const auto info,
                           MonitorProcess::Start({program, "info", "bench", "--json", "--run-dir", directory.path()}));
  FERRITE_ASSIGN_OR_RETURN(const std::string text, info->ReadToEnd(kLimit));
  const Json told = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!told.is_object() || !told.contains("first_entry_seconds")) {
    return absl::InternalError(absl::StrCat("ferrite info: ", text));
  }
  figures["first_entry_ms"] =
      (told.value("started_monotonic_seconds", 0.0) + told.value("first_entry_seconds", 0.0) - monitor->started()) *
      kMs;
  return figures;
}

absl::StatusOr<Json> MeasureQemuStart(const std::string& qemu) {
  const WorkDirectory directory;
  FERRITE_ASSIGN_OR_RETURN(std::vector<std::string> arguments,
                           QemuArguments(qemu, directory.path(), DataPath(kPayload), kStartMemoryMib, ""));
  FERRITE_ASSIGN_OR_RETURN(const auto monitor, MonitorProcess::Start(std::move(arguments)));
  return Measure(*monitor);
}

}  // namespace ferrite
