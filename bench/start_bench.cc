// Start-up of the monitor: from the start of the process to the guest's first output. The guest is a payload that says
// hello at once (tests/guest/hello.cc); some forty instructions of it run before. The peer is bare_kvm.cc.

#include <stdlib.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/child_process.h"
#include "bench/samples.h"
#include "tests/integration/payload_machine.h"
#include "vmm/base/log.h"

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
  auto process = ChildProcess::Start(program);
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
  auto process = ChildProcess::Start(RunCommand(run_dir, "hello", ""));
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

absl::Status MeasureFirstEntry(Samples& samples) {
  MachineConfig config;
  config.memory_bytes = uint64_t{128} << 20;
  auto machine = PayloadMachine::Run("hello", config);
  if (!machine.ok()) {
    return machine.status();
  }
  if (const auto hello = (*machine)->WaitFor("hello"); !hello.ok()) {
    return hello.status();
  }
  samples.Add(static_cast<double>((*machine)->machine().first_entry_ns()) * 1e-6);
  return (*machine)->WaitUntilStopped().status();
}

absl::Status Measure(int rounds) {
  RunDir run_dir;
  Log().set_level(spdlog::level::warn);
  Samples empty;
  Samples bare;
  Samples to_guest;
  Samples to_end;
  Samples first_entry;
  absl::PrintF("inputs: %d rounds, 1 vCPU, 128 MiB, memfd, payload hello\n", rounds);
  for (int i = 0; i < rounds; ++i) {
    for (const absl::Status& status :
         {MeasurePeer({"/bin/echo", "event=hello"}, empty), MeasurePeer({DataPath("bench/bare_kvm")}, bare),
          MeasureFerrite(run_dir.path, to_guest, to_end), MeasureFirstEntry(first_entry)}) {
      if (!status.ok()) {
        return status;
      }
    }
  }
  PrintRatio("process start to the guest's first output", to_guest, "a bare KVM process", bare, "ms");
  absl::PrintF("  a process that prints a line: %s\n", empty.Summary("ms"));
  absl::PrintF("process start to its end after the guest's power-off: %s\n", to_end.Summary("ms"));
  absl::PrintF("Machine::Create to the first entry into the guest: %s\n", first_entry.Summary("ms"));
  return absl::OkStatus();
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  const absl::Status status = ferrite::Measure(ferrite::IntegerArgument(argc, argv, "rounds", 30));
  if (!status.ok()) {
    std::fprintf(stderr, "start_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}
