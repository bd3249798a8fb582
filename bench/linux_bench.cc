// A real Linux guest in ferrite and in QEMU's microvm machine, side by side on the KVM of the outer machine: time to
// the guest's init, memory of the monitor, throughput of virtio-block and of the balloon. Both get the same kernel,
// initial RAM disk, memory and vCPU, and take turns. The outer machine is emulated: only the ratios mean something.
//
//   boots=5 rounds=5
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "bench/linux_monitor.h"
#include "bench/memory_use.h"
#include "bench/samples.h"
#include "bench/where.h"

namespace ferrite {
namespace {

constexpr double kMilli = 1e3;
constexpr uint32_t kStartMemoryMib = 128;
constexpr uint32_t kMemoryMib = 192;
constexpr uint32_t kBalloonMib = 64;

using NewMonitor = std::unique_ptr<LinuxMonitor> (*)();

class Directory {
 public:
  Directory() { (void)!mkdtemp(path_.data()); }
  ~Directory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/nested-bench-XXXXXX";
};

struct Starts {
  Samples init;
  Samples ready;
  Samples own_memory;
  Samples resident_memory;
};

absl::Status MeasureStart(NewMonitor make, Starts& starts) {
  const Directory directory;
  const auto monitor = make();
  FERRITE_RETURN_IF_ERROR(monitor->Start({.memory_mib = kStartMemoryMib, .directory = directory.path()}));
  FERRITE_ASSIGN_OR_RETURN(const double init, monitor->WaitForInit());
  FERRITE_ASSIGN_OR_RETURN(const double ready, monitor->WaitForReady());
  FERRITE_ASSIGN_OR_RETURN(const MemoryUse use, ReadMemoryUse(monitor->pid(), uint64_t{kStartMemoryMib} << 20));
  if (use.guest_resident < 8 * kMiBytes) {
    return absl::InternalError(absl::StrCat(monitor->name(), ": the guest's memory is not where it should be"));
  }
  starts.init.Add(init * kMilli);
  starts.ready.Add(ready * kMilli);
  starts.own_memory.Add(static_cast<double>(use.own) / kMiBytes);
  starts.resident_memory.Add(static_cast<double>(use.resident) / kMiBytes);
  return absl::OkStatus();
}

// dd in the guest, past its page cache; MiB a second by the guest's own clock.
struct Transfer {
  const char* name;
  const char* direction;
  const char* block;
  uint32_t count;
  double mib;
};
constexpr Transfer kTransfers[] = {
    {"virtio-block read, 1 MiB requests", "if=/dev/vda of=/dev/null iflag=direct", "1M", 64, 64},
    {"virtio-block write, 1 MiB requests", "if=/dev/zero of=/dev/vda oflag=direct", "1M", 64, 64},
    {"virtio-block read, 4 KiB requests, one at a time", "if=/dev/vda of=/dev/null iflag=direct", "4k", 512, 2},
    {"virtio-block write, 4 KiB requests, one at a time", "if=/dev/zero of=/dev/vda oflag=direct", "4k", 512, 2},
};

absl::StatusOr<double> RunTransfer(LinuxMonitor& monitor, const Transfer& transfer) {
  FERRITE_ASSIGN_OR_RETURN(const std::string said,
                           monitor.Run(absl::StrFormat("time dd %s bs=%s count=%d 2>&1", transfer.direction,
                                                       transfer.block, transfer.count)));
  // "real\t0m 1.23s"
  constexpr char kReal[] = "real";
  const size_t at = said.find(kReal);
  unsigned minutes = 0;
  double seconds = 0;
  if (at == std::string::npos ||
      std::sscanf(said.c_str() + at + sizeof(kReal) - 1, " %um %lfs", &minutes, &seconds) != 2 ||
      (minutes == 0 && seconds <= 0)) {
    return absl::InternalError(absl::StrCat(monitor.name(), ": dd said ", said));
  }
  return transfer.mib / (minutes * 60 + seconds);
}

// MiB a second.
absl::StatusOr<double> MoveBalloon(LinuxMonitor& monitor, uint32_t mib) {
  const double begin = Now();
  if (const absl::Status status = monitor.Balloon(uint64_t{mib} << 20); !status.ok()) {
    return Annotate(status, absl::StrCat(monitor.name(), ", ", monitor.LastWords()));
  }
  return kBalloonMib / (Now() - begin);
}

void PrintThroughput(absl::string_view what, const Samples& ours, const Samples& theirs) {
  PrintRatio(what, ours, "QEMU's", theirs, "MiB/s");
}

absl::Status MeasureDevices(int rounds) {
  const Directory directories[2];
  const std::unique_ptr<LinuxMonitor> monitors[2] = {NewFerrite(), NewQemu()};
  for (int i = 0; i < 2; ++i) {
    FERRITE_RETURN_IF_ERROR(
        monitors[i]->Start({.memory_mib = kMemoryMib, .devices = true, .directory = directories[i].path()}));
    FERRITE_RETURN_IF_ERROR(monitors[i]->WaitForReady().status());
    // Once before it counts.
    FERRITE_RETURN_IF_ERROR(RunTransfer(*monitors[i], kTransfers[0]).status());
  }
  for (const Transfer& transfer : kTransfers) {
    Samples rates[2];
    for (int round = 0; round < rounds; ++round) {
      for (int i = 0; i < 2; ++i) {
        FERRITE_ASSIGN_OR_RETURN(const double rate, RunTransfer(*monitors[i], transfer));
        rates[i].Add(rate);
      }
    }
    PrintThroughput(transfer.name, rates[0], rates[1]);
  }
  Samples inflate[2];
  Samples deflate[2];
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 2; ++i) {
      // Memory that the host has to take back.
      FERRITE_RETURN_IF_ERROR(
          monitors[i]
              ->Run(absl::StrFormat("dd if=/dev/zero of=/tmp/used bs=1M count=%d 2>/dev/null && rm /tmp/used",
                                    kBalloonMib))
              .status());
      FERRITE_ASSIGN_OR_RETURN(const double inflated, MoveBalloon(*monitors[i], kBalloonMib));
      FERRITE_ASSIGN_OR_RETURN(const double deflated, MoveBalloon(*monitors[i], 0));
      inflate[i].Add(inflated);
      deflate[i].Add(deflated);
    }
  }
  PrintThroughput("balloon, inflate", inflate[0], inflate[1]);
  PrintThroughput("balloon, deflate", deflate[0], deflate[1]);
  return absl::OkStatus();
}

absl::Status Measure(int boots, int rounds) {
  absl::PrintF(
      "inputs: Debian's cloud kernel in nested, emulated KVM; 1 vCPU; QEMU 7.2's microvm program, aio=threads, its "
      "default cache; disk of 64 MiB in the outer machine's RAM; %d boots with %d MiB, %d rounds with %d MiB, a "
      "balloon of %d MiB; medians; the outer machine: %s\n",
      boots, kStartMemoryMib, rounds, kMemoryMib, kBalloonMib, WhereItRuns(Needs::kKvm));
  Starts starts[2];
  for (int boot = 0; boot < boots; ++boot) {
    FERRITE_RETURN_IF_ERROR(MeasureStart(NewFerrite, starts[0]));
    FERRITE_RETURN_IF_ERROR(MeasureStart(NewQemu, starts[1]));
  }
  PrintRatio("process start to the guest's init", starts[0].init, "QEMU's", starts[1].init, "ms");
  PrintRatio("process start to the guest's drivers loaded", starts[0].ready, "QEMU's", starts[1].ready, "ms");
  PrintRatio("memory beside the guest's RAM, own pages", starts[0].own_memory, "QEMU's", starts[1].own_memory, "MiB");
  PrintRatio("memory beside the guest's RAM, RSS", starts[0].resident_memory, "QEMU's", starts[1].resident_memory,
             "MiB");
  return MeasureDevices(rounds);
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  const absl::Status status = ferrite::Measure(ferrite::IntegerArgument(argc, argv, "boots", 5),
                                               ferrite::IntegerArgument(argc, argv, "rounds", 5));
  if (!status.ok()) {
    // Standard output: the outer machine shows both alike, but only whole lines.
    absl::PrintF("linux_bench: %s\n", status.ToString());
    return 1;
  }
  return 0;
}
