#include "bench/mirroring.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/guest_pair.h"
#include "bench/job_mirroring.h"
#include "bench/mirror_image.h"
#include "bench/process_figures.h"
#include "bench/qmp_client.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr double kMs = 1e3;
constexpr double kMiB = 1 << 20;
constexpr char kDisk[] = "root";

// `ferrite run`, and the command `ferrite mirror`.
class FerriteMirroring final : public Mirroring {
 public:
  using Mirroring::Mirroring;

  absl::Status Start() override {
    FERRITE_ASSIGN_OR_RETURN(
        process_, MonitorProcess::Start({Program(), "run", "--run-dir", setup_.directory, "--name", "bench", "--kernel",
                                         setup_.payload, "--mem", absl::StrCat(setup_.memory_mib, "M"), "--console",
                                         "stdio", "--disk", absl::StrCat("id=", kDisk, ",path=", setup_.source),
                                         "--cmdline", setup_.command_line}));
    FERRITE_RETURN_IF_ERROR(process_->WaitFor("event=ready ", kLimit).status());
    if (!setup_.is_paused) {
      return absl::OkStatus();
    }
    FERRITE_ASSIGN_OR_RETURN(const auto pause,
                             MonitorProcess::Start({Program(), "pause", "--run-dir", setup_.directory, "bench"}));
    return Annotate(pause->WaitForEnd().status(), "pause");
  }

  absl::StatusOr<Json> Mirror(const std::string& target) override {
    std::vector<std::string> arguments = {Program(),
                                          "mirror",
                                          "--run-dir",
                                          setup_.directory,
                                          "bench",
                                          kDisk,
                                          target,
                                          "--auto-complete",
                                          "--json",
                                          "--granularity",
                                          absl::StrCat(setup_.granularity),
                                          "--buffer",
                                          absl::StrCat(setup_.buffer_bytes),
                                          "--copy-mode",
                                          contender_.write_blocking ? "write-blocking" : "background"};
    arguments.insert(arguments.end(), setup_.mirror_arguments.begin(), setup_.mirror_arguments.end());
    FERRITE_ASSIGN_OR_RETURN(const auto mirror, MonitorProcess::Start(std::move(arguments)));
    FERRITE_ASSIGN_OR_RETURN(const std::string line, mirror->WaitForLine("\"over\":true", kLimit));
    FERRITE_ASSIGN_OR_RETURN(const double end, mirror->WaitForEnd());
    command_cpu_ += mirror->CpuSeconds();
    const Json account = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!account.is_object() || account["state"] != "completed") {
      return absl::InternalError(absl::StrCat("the mirror failed: ", line));
    }
    return Json{{"total_ms", (end - mirror->started()) * kMs},
                {"ready_ms", account["ready_after_seconds"].get<double>() * kMs},
                {"standstill_ms", account["standstill_seconds"].get<double>() * kMs},
                {"copied_mib", account["copied_bytes"].get<double>() / kMiB},
                {"again_mib", account["again_bytes"].get<double>() / kMiB},
                {"mode_at_end", account["copy_mode"]}};
  }

  absl::StatusOr<double> CpuSeconds() const override {
    FERRITE_ASSIGN_OR_RETURN(const double all, CpuOfProcess(process_->pid()));
    FERRITE_ASSIGN_OR_RETURN(const double vcpu, CpuOfThreads(process_->pid(), "vcpu-"));
    return all - vcpu + command_cpu_;
  }

 private:
  static std::string Program() { return DataPath("vmm/app/ferrite"); }

  double command_cpu_ = 0;
};

// QEMU, or its storage daemon where there is no guest.
class QemuMirroring final : public Mirroring {
 public:
  using Mirroring::Mirroring;

  absl::Status Start() override {
    const std::string path = absl::StrCat(setup_.directory, "/qmp");
    FERRITE_ASSIGN_OR_RETURN(qmp_, QmpClient::Listen(path));
    FERRITE_ASSIGN_OR_RETURN(std::vector<std::string> arguments, HasGuest() ? Machine(path) : Daemon(path));
    for (const Json& node : Nodes(kDisk, setup_.source, /*is_target=*/false)) {
      arguments.insert(arguments.end(), {HasGuest() ? "-blockdev" : "--blockdev", node.dump()});
    }
    if (HasGuest()) {
      arguments.insert(arguments.end(), {"-device", absl::StrCat("virtio-blk-device,drive=", kDisk,
                                                                 contender_.iothread ? ",iothread=io" : "")});
    }
    FERRITE_ASSIGN_OR_RETURN(process_, MonitorProcess::Start(std::move(arguments)));
    if (const absl::Status here = qmp_->Accept(kStart); !here.ok()) {
      return Annotate(here, LastWords());
    }
    return HasGuest() && !setup_.is_paused ? process_->WaitFor("event=ready ", kLimit).status() : absl::OkStatus();
  }

  absl::StatusOr<Json> Mirror(const std::string& target) override {
    auto figures = Copy(target);
    // What it complained about.
    return figures.ok() ? std::move(figures) : Annotate(figures.status(), LastWords());
  }

  absl::StatusOr<double> CpuSeconds() const override {
    FERRITE_ASSIGN_OR_RETURN(const double all, CpuOfProcess(process_->pid()));
    double vcpu = 0;
    if (HasGuest()) {
      FERRITE_ASSIGN_OR_RETURN(vcpu, CpuOfThreads(process_->pid(), "CPU "));
    }
    return all - vcpu;
  }

 private:
  static constexpr absl::Duration kStart = absl::Seconds(30);

  absl::StatusOr<Json> Copy(const std::string& target) {
    const double begin = Now();
    FERRITE_RETURN_IF_ERROR(MakeSparseFile(target, setup_.bytes));
    for (const Json& node : Nodes("copy", target, /*is_target=*/true)) {
      FERRITE_RETURN_IF_ERROR(qmp_->Execute("blockdev-add", node).status());
    }
    FERRITE_RETURN_IF_ERROR(
        qmp_->Execute("blockdev-mirror", {{"job-id", "mirror"},
                                          {"device", kDisk},
                                          {"target", "copy"},
                                          {"sync", "full"},
                                          {"granularity", setup_.granularity},
                                          {"buf-size", setup_.buffer_bytes},
                                          {"copy-mode", contender_.write_blocking ? "write-blocking" : "background"}})
            .status());
    FERRITE_RETURN_IF_ERROR(WaitFor("BLOCK_JOB_READY").status());
    const double ready = Now();
    FERRITE_RETURN_IF_ERROR(qmp_->Execute("job-complete", {{"id", "mirror"}}).status());
    FERRITE_ASSIGN_OR_RETURN(const Json completed, WaitFor("BLOCK_JOB_COMPLETED"));
    return Json{{"total_ms", (Now() - begin) * kMs},
                {"ready_ms", (ready - begin) * kMs},
                {"copied_mib", completed["data"].value("offset", 0.0) / kMiB}};
  }

  std::string LastWords() const {
    return std::string(process_->WaitFor("(all of it)", absl::Seconds(1)).status().message());
  }
  bool HasGuest() const { return !setup_.payload.empty(); }

  // What microvm has (include/hw/i386/microvm.h), for a guest that finds no ACPI tables.
  absl::StatusOr<std::vector<std::string>> Machine(const std::string& qmp) const {
    FERRITE_ASSIGN_OR_RETURN(std::vector<std::string> arguments,
                             QemuArguments(setup_.qemu, setup_.directory, setup_.payload, setup_.memory_mib,
                                           absl::StrCat(setup_.command_line, " mmio=0xfeb00000")));
    arguments.insert(arguments.end(), {"-qmp", absl::StrCat("unix:", qmp), "-object", "iothread,id=io", "-global",
                                       "virtio-mmio.force-legacy=false"});
    if (setup_.is_paused) {
      arguments.push_back("-S");
    }
    return arguments;
  }

  absl::StatusOr<std::vector<std::string>> Daemon(const std::string& qmp) const {
    return std::vector<std::string>{setup_.qemu_storage, "--chardev", absl::StrCat("socket,id=qmp,path=", qmp),
                                    "--monitor", "chardev=qmp"};
  }

  // The file, and the raw image in it, which the other names are for.
  std::vector<Json> Nodes(const std::string& name, const std::string& path, bool is_target) const {
    const std::string file = absl::StrCat(name, "-file");
    Json image = {{"driver", "raw"}, {"node-name", name}, {"file", file}, {"discard", "unmap"}};
    if (is_target && contender_.detect_zeroes) {
      image["detect-zeroes"] = "unmap";
    }
    return {{{"driver", "file"},
             {"node-name", file},
             {"filename", path},
             {"aio", contender_.aio},
             {"discard", "unmap"},
             {"cache", {{"direct", contender_.direct}}}},
            std::move(image)};
  }

  absl::StatusOr<Json> WaitFor(const char* wanted) {
    return qmp_->WaitForEvent(
        [&](const Json& event) -> absl::StatusOr<bool> {
          if (event["event"] == "BLOCK_JOB_ERROR" ||
              (event["event"] == "BLOCK_JOB_COMPLETED" && event["data"].contains("error"))) {
            return absl::InternalError(absl::StrCat("QEMU's mirror failed: ", event.dump()));
          }
          return event["event"] == wanted;
        },
        kLimit);
  }

  std::unique_ptr<QmpClient> qmp_;
};

}  // namespace

std::string MirrorContender::Name() const {
  const char* const mode = write_blocking ? " write-blocking" : "";
  switch (who) {
    case Who::kFerrite:
      return absl::StrCat("ferrite mirror", mode);
    case Who::kQemu:
      return absl::StrCat("QEMU mirror", mode, " cache=", direct ? "none" : "writeback", " aio=", aio,
                          detect_zeroes ? "" : " detect-zeroes=off", iothread ? "" : " without iothread");
    case Who::kQemuImg:
      return absl::StrCat("qemu-img convert", direct ? " -t none -T none" : "",
                          detect_zeroes ? " --target-is-zero" : "");
    case Who::kBareCopying:
      break;
  }
  return "bare copy loop";
}

std::unique_ptr<Mirroring> Mirroring::Make(const MirrorContender& contender, const MirroringSetup& setup) {
  if (contender.is_qemu()) {
    return std::make_unique<QemuMirroring>(contender, setup);
  }
  if (setup.payload.empty()) {
    return MakeJobMirroring(contender, setup);
  }
  return std::make_unique<FerriteMirroring>(contender, setup);
}

}  // namespace ferrite
