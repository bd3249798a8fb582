#include "bench/disk_copy.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "bench/samples.h"
#include "bench/work_directory.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using Who = MirrorContender::Who;

constexpr absl::Duration kLimit = absl::Seconds(180);
// The guest looks for commands every 5 ms.
constexpr absl::Duration kCommand = absl::Milliseconds(20);
// In which the guest's first writes, to blocks that the host has not looked for yet, are over.
constexpr absl::Duration kSettle = absl::Milliseconds(500);
constexpr double kMs = 1e3;
constexpr double kNsPerUs = 1e3;
constexpr double kMiB = 1 << 20;

double CpuOfThisThread() {
  rusage usage = {};
  (void)getrusage(RUSAGE_THREAD, &usage);
  double seconds = 0;
  for (const timeval& time : {usage.ru_utime, usage.ru_stime}) {
    seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  }
  return seconds;
}

void RemoveTarget(const CopyInputs& inputs) {
  std::error_code error;
  std::filesystem::remove(inputs.Target(), error);
  std::filesystem::remove(inputs.Target() + ".incomplete", error);
}

// As each copy begins: no target, and of the source everything in the page cache and nothing to be written out.
absl::Status Prepare(const CopyInputs& inputs) {
  RemoveTarget(inputs);
  sync();  // what the file system does for those that were removed
  return WarmFile(inputs.Source());
}

MirroringSetup SetupOf(const CopyInputs& inputs, const std::string& directory, bool is_paused) {
  return {.directory = directory,
          .source = inputs.Source(),
          .bytes = inputs.image.bytes,
          .payload = inputs.kvm ? DataPath("tests/guest/writer") : "",
          .command_line = absl::StrCat("blk_span=", inputs.image.solid_bytes(), " rate=", is_paused ? 0 : inputs.rate),
          .is_paused = is_paused,
          .granularity = inputs.granularity,
          .buffer_bytes = inputs.buffer_bytes,
          .qemu = inputs.qemu,
          .qemu_storage = inputs.qemu_storage,
          .mirror_arguments = inputs.mirror_arguments};
}

absl::StatusOr<Json> CopyByMonitor(const CopyInputs& inputs, Mirroring& monitor) {
  FERRITE_ASSIGN_OR_RETURN(const double cpu, monitor.CpuSeconds());
  FERRITE_ASSIGN_OR_RETURN(Json figures, monitor.Mirror(inputs.Target()));
  FERRITE_ASSIGN_OR_RETURN(const double cpu_after, monitor.CpuSeconds());
  figures["cpu_s"] = cpu_after - cpu;
  return figures;
}

absl::StatusOr<Json> CopyByQemuImg(const CopyInputs& inputs, const MirrorContender& contender) {
  FERRITE_RETURN_IF_ERROR(MakeSparseFile(inputs.Target(), inputs.image.bytes));
  std::vector<std::string> arguments = {inputs.qemu_img, "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw"};
  if (contender.direct) {
    arguments.insert(arguments.end(), {"-t", "none", "-T", "none"});
  }
  if (contender.detect_zeroes) {
    arguments.emplace_back("--target-is-zero");
  }
  arguments.insert(arguments.end(), {inputs.Source(), inputs.Target()});
  FERRITE_ASSIGN_OR_RETURN(const auto process, MonitorProcess::Start(std::move(arguments)));
  FERRITE_RETURN_IF_ERROR(process->WaitForEnd().status());
  const double cpu = CpuOfThisThread();
  FERRITE_RETURN_IF_ERROR(SyncFile(inputs.Target()));
  return Json{{"total_ms", (Now() - process->started()) * kMs},
              {"cpu_s", process->CpuSeconds() + CpuOfThisThread() - cpu}};
}

absl::StatusOr<Json> CopyByLoop(const CopyInputs& inputs) {
  FERRITE_RETURN_IF_ERROR(MakeSparseFile(inputs.Target(), inputs.image.bytes));
  const double begin = Now();
  const double cpu = CpuOfThisThread();
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, CopyBarely(inputs.Source(), inputs.Target()));
  return Json{{"total_ms", (Now() - begin) * kMs},
              {"cpu_s", CpuOfThisThread() - cpu},
              {"copied_mib", static_cast<double>(bytes) / kMiB}};
}

absl::Status AddTarget(const CopyInputs& inputs, Json& figures) {
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, AllocatedBytes(inputs.Target()));
  figures["target_mib"] = static_cast<double>(bytes) / kMiB;
  return absl::OkStatus();
}

// What the guest says of its writes since it forgot the ones before.
struct Writes {
  double count = 0;
  double p50_us = 0;
  double p99_us = 0;
  double longest_us = 0;
  double late_p99_us = 0;
  double given_up = 0;
};

absl::StatusOr<Writes> AskWrites(MonitorProcess& guest) {
  FERRITE_RETURN_IF_ERROR(guest.Write("w"));
  FERRITE_ASSIGN_OR_RETURN(const std::string line, guest.WaitForLine("event=writes ", kLimit));
  Writes writes;
  double errors = -1;
  for (absl::string_view word : absl::StrSplit(line, ' ')) {
    for (const auto& [name, value] : {std::pair("count=", &writes.count), std::pair("p50_ns=", &writes.p50_us),
                                      std::pair("p99_ns=", &writes.p99_us), std::pair("max_ns=", &writes.longest_us),
                                      std::pair("due_p99_ns=", &writes.late_p99_us),
                                      std::pair("given_up=", &writes.given_up), std::pair("errors=", &errors)}) {
      if (absl::string_view rest = word; absl::ConsumePrefix(&rest, name) && !absl::SimpleAtod(rest, value)) {
        return absl::InternalError(absl::StrCat("no number in the guest's line: ", line));
      }
    }
  }
  if (errors != 0) {
    return absl::DataLossError(absl::StrCat("the guest could not write: ", line));
  }
  for (double* ns : {&writes.p50_us, &writes.p99_us, &writes.longest_us, &writes.late_p99_us}) {
    *ns /= kNsPerUs;
  }
  return writes;
}

void AddWrites(const Writes& writes, const std::string& when, double seconds, Json& figures) {
  figures["writes_" + when] = writes.count / seconds;
  figures[when + "_p50_us"] = writes.p50_us;
  figures[when + "_p99_us"] = writes.p99_us;
  figures[when + "_longest_us"] = writes.longest_us;
  figures[when + "_late_p99_us"] = writes.late_p99_us;
  figures[when + "_given_up"] = writes.given_up;
}

}  // namespace

absl::StatusOr<Json> MeasureIdleCopy(const CopyInputs& inputs, const MirrorContender& contender) {
  FERRITE_RETURN_IF_ERROR(Prepare(inputs));
  const auto remove = absl::MakeCleanup([&] { RemoveTarget(inputs); });
  const WorkDirectory directory;
  Json figures;
  {
    std::unique_ptr<Mirroring> monitor;
    if (contender.who == Who::kQemuImg) {
      FERRITE_ASSIGN_OR_RETURN(figures, CopyByQemuImg(inputs, contender));
    } else if (contender.who == Who::kBareCopying) {
      FERRITE_ASSIGN_OR_RETURN(figures, CopyByLoop(inputs));
    } else {
      monitor = Mirroring::Make(contender, SetupOf(inputs, directory.path(), /*is_paused=*/true));
      FERRITE_RETURN_IF_ERROR(monitor->Start());
      FERRITE_ASSIGN_OR_RETURN(figures, CopyByMonitor(inputs, *monitor));
    }
  }
  FERRITE_RETURN_IF_ERROR(AddTarget(inputs, figures));
  FERRITE_RETURN_IF_ERROR(ExpectSame(inputs.Source(), inputs.Target()));
  return figures;
}

absl::StatusOr<Json> MeasureLoadedCopy(const CopyInputs& inputs, const MirrorContender& contender) {
  FERRITE_RETURN_IF_ERROR(Prepare(inputs));
  const auto remove = absl::MakeCleanup([&] { RemoveTarget(inputs); });
  const WorkDirectory directory;
  const auto monitor = Mirroring::Make(contender, SetupOf(inputs, directory.path(), /*is_paused=*/false));
  FERRITE_RETURN_IF_ERROR(monitor->Start());
  MonitorProcess& guest = monitor->guest();
  absl::SleepFor(kSettle);
  FERRITE_RETURN_IF_ERROR(guest.Write("z"));
  absl::SleepFor(kCommand);
  double begin = Now();
  absl::SleepFor(inputs.before);
  FERRITE_ASSIGN_OR_RETURN(const Writes before, AskWrites(guest));
  const double seconds_before = Now() - begin;
  FERRITE_RETURN_IF_ERROR(guest.Write("z"));
  absl::SleepFor(kCommand);
  begin = Now();
  FERRITE_ASSIGN_OR_RETURN(Json figures, CopyByMonitor(inputs, *monitor));
  FERRITE_ASSIGN_OR_RETURN(const Writes during, AskWrites(guest));
  AddWrites(during, "during", Now() - begin, figures);
  AddWrites(before, "before", seconds_before, figures);
  FERRITE_RETURN_IF_ERROR(AddTarget(inputs, figures));
  return figures;
}

}  // namespace ferrite
