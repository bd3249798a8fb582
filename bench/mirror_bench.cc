// Copies of a disk to another file: ferrite's mirror beside QEMU's, `qemu-img convert` and a bare loop, of the same
// image and in turns, while the guest stands still and while it writes. docs/performance.md says what each figure is.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "bench/arguments.h"
#include "bench/disk_copy.h"
#include "bench/mirror_rows.h"
#include "bench/monitor_process.h"
#include "bench/where.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

struct Inputs {
  int runs = 5;
  std::vector<std::string> only;
  uint64_t size_mib = 4096;
  uint64_t rate = 2000;
  int before_ms = 2000;
  uint64_t buffer_mib = 16;
  std::string directory = "/var/tmp";
  std::string qemu = "/usr/bin/qemu-system-x86_64";
  std::string qemu_img = "/usr/bin/qemu-img";
  std::string qemu_storage = "/usr/bin/qemu-storage-daemon";
  std::string mirror_arguments;
  bool json = false;
  bool no_kvm = false;
  std::string save;

  bool Wants(const std::string& name) const {
    for (const std::string& text : only) {
      if (absl::StrContains(name, text)) {
        return true;
      }
    }
    return only.empty();
  }
};

bool IsThere(const std::string& program) { return access(program.c_str(), X_OK) == 0; }

// Of what runs here: the peers, and how both sides run.
std::string PeersText(const Inputs& inputs, const MirrorPeers& peers, const std::string& version) {
  std::string text =
      !peers.qemu ? absl::StrCat("no QEMU at ", peers.kvm ? inputs.qemu : inputs.qemu_storage, " (Debian: apt install ",
                                 peers.kvm ? "qemu-system-x86" : "qemu-utils", "): without it")
                  : version;
  if (!peers.qemu_img) {
    absl::StrAppend(&text, "; no qemu-img at ", inputs.qemu_img, " (Debian: apt install qemu-utils): without it");
  }
  if (!peers.kvm) {
    absl::StrAppend(
        &text, "; without KVM: ferrite's job in this process and qemu-storage-daemon, no guest, the idle row alone");
  }
  return text;
}

std::string VersionOf(const std::string& program) {
  const auto process = MonitorProcess::Start({program, "--version"});
  if (!process.ok()) {
    return "";
  }
  const auto line = (*process)->WaitForLine("version", absl::Seconds(30));
  return line.ok() ? *line : "";
}

Json InputsJson(const Inputs& inputs, const CopyInputs& copies, const std::string& peers, const std::string& where) {
  return {{"runs", inputs.runs},
          {"size_mib", inputs.size_mib},
          {"data_mib", copies.image.data_bytes() >> 20},
          {"zero_mib", copies.image.zero_bytes() >> 20},
          {"rate", inputs.rate},
          {"before_ms", inputs.before_ms},
          {"buffer_mib", inputs.buffer_mib},
          {"granularity", copies.granularity},
          {"directory", inputs.directory},
          {"mirror_arguments", inputs.mirror_arguments},
          {"kvm", copies.kvm},
          {"peers", peers},
          {"where", where}};
}

void PrintInputs(const Inputs& inputs, const CopyInputs& copies, const std::string& peers, const std::string& where) {
  absl::PrintF(
      "inputs: %d runs of each in turns; a raw image of %d MiB in %s: %d MiB of data, %d of zeroes that were written, "
      "the rest holes; all of it in the page cache, nothing to be written out at the start; granularity %d KiB, buffer "
      "%d MiB; idle: the guest stands still; loaded: 1 vCPU, it writes 4 KiB at random places of the first %d MiB, %d "
      "a second, watched for %d ms before; ferrite and QEMU write out by themselves within the total, the others are "
      "followed by fdatasync(2), which counts; ferrite mirror %s; %s; %s\n",
      inputs.runs, inputs.size_mib, inputs.directory, copies.image.data_bytes() >> 20, copies.image.zero_bytes() >> 20,
      copies.granularity >> 10, inputs.buffer_mib, copies.image.solid_bytes() >> 20, inputs.rate, inputs.before_ms,
      inputs.mirror_arguments.empty() ? "as it comes" : inputs.mirror_arguments, peers, where);
  std::fflush(stdout);
}

// Somebody who watches sees that it goes on.
void ShowProgress(const Inputs& inputs, int run, const std::string& what) {
  if (isatty(STDERR_FILENO) != 0) {
    absl::FPrintF(stderr, "run %d of %d: %s\n", run + 1, inputs.runs, what);
  }
}

absl::Status MeasureOnce(const Inputs& inputs, const CopyInputs& copies, int run, std::vector<MirrorRow>& rows) {
  for (MirrorRow& row : rows) {
    for (CopyRuns& runs : row.contenders) {
      const std::string name = absl::StrCat(row.name, ", ", runs.contender.Name());
      ShowProgress(inputs, run, name);
      auto figures =
          row.is_loaded ? MeasureLoadedCopy(copies, runs.contender) : MeasureIdleCopy(copies, runs.contender);
      FERRITE_RETURN_IF_ERROR(Annotate(figures.status(), name));
      runs.runs.push_back(*std::move(figures));
    }
  }
  return absl::OkStatus();
}

absl::Status Measure(const Inputs& inputs) {
  if (inputs.size_mib % MirrorImage::kLeastMib != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the size is a multiple of ", MirrorImage::kLeastMib, " MiB"));
  }
  const bool kvm = !inputs.no_kvm && KvmIsHere().ok();
  const std::string& monitor = kvm ? inputs.qemu : inputs.qemu_storage;
  const MirrorPeers peers = {.qemu = IsThere(monitor), .qemu_img = IsThere(inputs.qemu_img), .kvm = kvm};
  std::vector<MirrorRow> rows;
  for (MirrorRow& row : MirrorRows(peers)) {
    if (inputs.Wants(row.name)) {
      rows.push_back(std::move(row));
    }
  }
  if (rows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no row's name has one of: ", absl::StrJoin(inputs.only, ", "),
                     kvm ? "; there are idle, background, write-blocking" : "; without KVM there is idle"));
  }
  std::string directory = inputs.directory + "/ferrite-mirror-bench-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) {
    return ErrnoStatus(absl::StrCat("make a directory in ", inputs.directory));
  }
  const auto remove = absl::MakeCleanup([&] {
    std::error_code error;
    std::filesystem::remove_all(directory, error);
  });
  const CopyInputs copies = {.image = {.bytes = inputs.size_mib << 20},
                             .directory = directory,
                             .kvm = kvm,
                             .rate = inputs.rate,
                             .before = absl::Milliseconds(inputs.before_ms),
                             .buffer_bytes = inputs.buffer_mib << 20,
                             .qemu = inputs.qemu,
                             .qemu_img = inputs.qemu_img,
                             .qemu_storage = inputs.qemu_storage,
                             .mirror_arguments = absl::StrSplit(inputs.mirror_arguments, ' ', absl::SkipEmpty())};
  const std::string where = WhereItRuns(kvm ? Needs::kKvm : Needs::kNothing);
  const std::string peers_text = PeersText(inputs, peers, peers.qemu ? VersionOf(monitor) : "");
  if (!inputs.json) {
    PrintInputs(inputs, copies, peers_text, where);
  }
  FERRITE_RETURN_IF_ERROR(copies.image.Make(copies.Source()));
  // What was measured is shown, also when a later run fails.
  absl::Status failed;
  for (int run = 0; run < inputs.runs && failed.ok(); ++run) {
    failed = MeasureOnce(inputs, copies, run, rows);
  }
  std::vector<MirrorGoalResult> goals;
  for (const MirrorRow& row : rows) {
    const std::vector<MirrorGoalResult> results = MirrorGoalResults(row);
    goals.insert(goals.end(), results.begin(), results.end());
  }
  const Json json = {{"inputs", InputsJson(inputs, copies, peers_text, where)},
                     {"rows", MirrorRowsJson(rows)},
                     {"goals", MirrorGoalsJson(goals)}};
  if (!inputs.json) {
    PrintMirrorRows(rows);
    PrintMirrorGoals(goals);
  } else if (failed.ok()) {
    std::printf("%s\n", json.dump().c_str());
  }
  if (!inputs.save.empty() && !(std::ofstream(inputs.save) << json.dump() << std::endl)) {
    return ErrnoStatus(absl::StrCat("write ", inputs.save));
  }
  return failed;
}

int Main(int argc, char** argv) {
  std::vector<std::string> arguments = ArgumentsOf(argc, argv);
  Inputs inputs;
  CLI::App app("Copies of a disk: ferrite's mirror beside QEMU's, qemu-img's, and a bare loop's");
  app.add_option("--runs", inputs.runs, "Of each")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--row", inputs.only, "Only rows whose names hold one of these: idle, background, write-blocking")
      ->delimiter(',');
  app.add_option("--size", inputs.size_mib, "MiB of the image, a multiple of 64; 256 is quick")
      ->check(CLI::Range(64, 1 << 20))
      ->capture_default_str();
  app.add_option("--rate", inputs.rate, "The guest's writes a second")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--before-ms", inputs.before_ms, "How long it is watched before a mirror")
      ->check(CLI::Range(10, 100000))
      ->capture_default_str();
  app.add_option("--buffer", inputs.buffer_mib, "MiB of a mirror's buffer")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--directory", inputs.directory,
                 "Where the image and its copies are, twice its size; /dev/shm is memory")
      ->capture_default_str();
  app.add_option("--qemu", inputs.qemu, "QEMU's program")->capture_default_str();
  app.add_option("--qemu-img", inputs.qemu_img, "QEMU's program for images")->capture_default_str();
  app.add_option("--qemu-storage", inputs.qemu_storage, "QEMU's storage daemon")->capture_default_str();
  app.add_option("--mirror-options", inputs.mirror_arguments, "More arguments of `ferrite mirror`");
  app.add_flag("--no-kvm", inputs.no_kvm, "As where there is no KVM");
  app.add_flag("--json", inputs.json, "One JSON object with every run, and no table");
  app.add_option("--save", inputs.save, "A file for that object, beside the table")->type_name("FILE");
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  const absl::Status status = Measure(inputs);
  if (!status.ok()) {
    if (inputs.json) {
      std::printf("%s\n", Json({{"error", status.ToString()}}).dump().c_str());
    }
    std::fprintf(stderr, "mirror_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) { return ferrite::Main(argc, argv); }
