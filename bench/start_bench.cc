// Start-up of the monitor: from the start of the process to the guest's first instruction (the monitor says when it
// entered the guest), and to the guest's first output. The guest of the latter is a payload that says hello at once
// (tests/guest/hello.cc); some forty instructions of it run before. The peer is bare_kvm.cc.

#include <stdlib.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "bench/monitor_process.h"
#include "bench/samples.h"
#include "bench/where.h"

namespace ferrite {
namespace {

constexpr double kMilli = 1e3;
constexpr absl::Duration kTimeout = absl::Seconds(30);

struct RunDir {
  RunDir() { path = mkdtemp(path.data()); }
  ~RunDir() { (void)!system(absl::StrCat("rm -rf ", path).c_str()); }
  std::string path = "/tmp/ferrite-bench-XXXXXX";
};

std::vector<std::string> RunCommand(const std::string& run_dir, const char* payload, const char* command_line) {
  return {DataPath("vmm/app/ferrite"),
          "run",
          "--run-dir",
          run_dir,
          "--name",
          "bench",
          "--kernel",
          DataPath(absl::StrCat("tests/guest/", payload)),
          "--cmdline",
          command_line,
          "--mem",
          "128M",
          "--console",
          "stdio"};
}

// Until a program of its own says hello.
absl::Status MeasurePeer(const std::vector<std::string>& program, Samples& samples) {
  auto process = MonitorProcess::Start(program);
  if (!process.ok()) {
    return process.status();
  }
  const auto hello = (*process)->WaitFor("event=hello", kTimeout);
  if (hello.ok()) {
    samples.Add((*hello - (*process)->started()) * kMilli);
  }
  return hello.status();
}

absl::Status MeasureFerrite(const std::string& run_dir, Samples& to_guest, Samples& to_end) {
  auto process = MonitorProcess::Start(RunCommand(run_dir, "hello", ""));
  if (!process.ok()) {
    return process.status();
  }
  const auto hello = (*process)->WaitFor("event=hello", kTimeout);
  if (!hello.ok()) {
    return hello.status();
  }
  to_guest.Add((*hello - (*process)->started()) * kMilli);
  const auto end = (*process)->WaitForEnd();
  if (end.ok()) {
    to_end.Add((*end - (*process)->started()) * kMilli);
  }
  return end.status();
}

// The number in a line `"name": number` of JSON.
absl::StatusOr<double> NumberOf(MonitorProcess& process, absl::string_view name) {
  const auto line = process.WaitForLine(absl::StrCat("\"", name, "\": "), kTimeout);
  if (!line.ok()) {
    return line.status();
  }
  double number = 0;
  const std::string text = line->substr(line->find(": ") + 2);
  if (!absl::SimpleAtod(absl::StripSuffix(text, ","), &number)) {
    return absl::InternalError(absl::StrCat("no number: ", *line));
  }
  return number;
}

// Of a machine that goes on long enough to be asked.
absl::Status MeasureFirstEntry(const std::string& run_dir, Samples& from_process, Samples& from_main) {
  auto process = MonitorProcess::Start(RunCommand(run_dir, "count", ""));
  if (!process.ok()) {
    return process.status();
  }
  if (const auto count = (*process)->WaitFor("event=count", kTimeout); !count.ok()) {
    return count.status();
  }
  auto info = MonitorProcess::Start({DataPath("vmm/app/ferrite"), "info", "bench", "--json", "--run-dir", run_dir});
  if (!info.ok()) {
    return info.status();
  }
  const auto started = NumberOf(**info, "started_monotonic_seconds");
  if (!started.ok()) {
    return started.status();
  }
  const auto first_entry = NumberOf(**info, "first_entry_seconds");
  if (!first_entry.ok()) {
    return first_entry.status();
  }
  from_process.Add((*started + *first_entry - (*process)->started()) * kMilli);
  from_main.Add(*first_entry * kMilli);
  if (const auto end = (*info)->WaitForEnd(); !end.ok()) {
    return end.status();
  }
  auto stop = MonitorProcess::Start({DataPath("vmm/app/ferrite"), "stop", "bench", "--run-dir", run_dir});
  if (!stop.ok()) {
    return stop.status();
  }
  if (const auto end = (*stop)->WaitForEnd(); !end.ok()) {
    return end.status();
  }
  return (*process)->WaitForEnd().status();
}

absl::Status Measure(int rounds) {
  RunDir run_dir;
  Samples empty;
  Samples bare;
  Samples to_guest;
  Samples to_end;
  Samples to_entry;
  Samples main_to_entry;
  absl::PrintF("inputs: %d rounds, 1 vCPU, 128 MiB, memfd, payloads hello (output, end) and count (first entry); %s\n",
               rounds, WhereItRuns(Needs::kKvm));
  for (int i = 0; i < rounds; ++i) {
    for (const absl::Status& status :
         {MeasurePeer({"/bin/echo", "event=hello"}, empty), MeasurePeer({DataPath("bench/bare_kvm")}, bare),
          MeasureFerrite(run_dir.path, to_guest, to_end), MeasureFirstEntry(run_dir.path, to_entry, main_to_entry)}) {
      if (!status.ok()) {
        return status;
      }
    }
  }
  PrintRatio("process start to the first guest instruction", to_entry, "a bare KVM process, to its guest's output",
             bare, "ms");
  absl::PrintF("  of it from main() on: %s\n", main_to_entry.Summary("ms"));
  PrintRatio("process start to the guest's first output", to_guest, "a bare KVM process", bare, "ms");
  absl::PrintF("  a process that prints a line: %s\n", empty.Summary("ms"));
  absl::PrintF("process start to its end after the guest's power-off: %s\n", to_end.Summary("ms"));
  return absl::OkStatus();
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  if (const auto status = ferrite::CannotRunHere("start_bench")) {
    return *status;
  }
  const absl::Status status = ferrite::Measure(ferrite::IntegerArgument(argc, argv, "rounds", 30));
  if (!status.ok()) {
    std::fprintf(stderr, "start_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}
