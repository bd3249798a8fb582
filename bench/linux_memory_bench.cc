// What a small Linux guest holds of the host's memory, on huge pages and without: after boot, idle, in use, after it
// reported what it freed, with half of its memory in the balloon and after that. In the outer machine, whose time is
// emulated and whose memory is not. One guest at a time.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/memory_settings.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "bench/linux_monitor.h"
#include "bench/memory_use.h"
#include "bench/where.h"
#include "bench/work_directory.h"

namespace ferrite {
namespace {

constexpr char kThp[] = "/sys/kernel/mm/transparent_hugepage/";
// A guest reports what it freed two seconds later.
constexpr absl::Duration kPoll = absl::Seconds(1);
constexpr int kQuietPolls = 5;
constexpr absl::Duration kLimit = absl::Seconds(120);
// Two passes that began after now: the first may be under way.
constexpr uint64_t kScans = 3;

constexpr uint32_t kSizesMib[] = {128, 512};
struct Variant {
  const char* name;
  std::unique_ptr<LinuxMonitor> (*make)();
  bool thp;
  bool balloon;
};
constexpr Variant kVariants[] = {
    {"ferrite --thp on", NewFerrite, true, true},
    {"ferrite --thp off", NewFerrite, false, true},
    {"QEMU microvm", NewQemu, true, true},
    {"ferrite --thp on, no balloon", NewFerrite, true, false},
    {"ferrite --thp off, no balloon", NewFerrite, false, false},
};

absl::Status WriteSetting(const std::string& path, absl::string_view value) {
  FERRITE_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY, 0));
  return write(file.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())
             ? absl::OkStatus()
             : ErrnoStatus(absl::StrCat("write ", path));
}

std::string ReadSetting(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Bytes of the host's memory in use, file caches left out: what a guest costs is the difference, its page tables and
// the unmapped parts of huge pages included.
uint64_t HostUsed() {
  const auto bytes = [](absl::string_view name) { return MemInfoBytes(name).value_or(0); };
  return bytes("MemTotal") - bytes("MemFree") - bytes("Buffers") - bytes("Cached") - bytes("SReclaimable");
}

// What is freed is kept in lists of the processor's own at first, and not in what counts as free: 50 MiB of it here.
// From now on these lists are short.
absl::Status ShortenFreeLists() {
  FERRITE_RETURN_IF_ERROR(WriteSetting("/proc/sys/vm/percpu_pagelist_high_fraction", "1000000"));
  // Takes all that is in them, and gives it back.
  return Mapping::Create("memory to empty the processor's lists", size_t{256} << 20,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE)
      .status();
}

class Guest {
 public:
  Guest(const Variant& variant, uint32_t mib) : variant_(variant), mib_(mib), monitor_(variant.make()) {}

  absl::Status Measure() {
    // Slabs that the run before filled are none of this one's.
    FERRITE_RETURN_IF_ERROR(WriteSetting("/proc/sys/vm/drop_caches", "2"));
    host_before_ = HostUsed();
    FERRITE_RETURN_IF_ERROR(monitor_->Start(
        {.memory_mib = mib_, .balloon = variant_.balloon, .thp = variant_.thp, .directory = directory_.path()}));
    FERRITE_RETURN_IF_ERROR(monitor_->WaitForReady().status());
    FERRITE_RETURN_IF_ERROR(Print("booted"));
    FERRITE_RETURN_IF_ERROR(Settle("idle"));
    FERRITE_RETURN_IF_ERROR(Scan("idle, khugepaged went through"));
    if (!variant_.balloon) {
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(
        monitor_->Run(absl::StrFormat("dd if=/dev/zero of=/tmp/used bs=1M count=%d 2>/dev/null", mib_ / 4)).status());
    FERRITE_RETURN_IF_ERROR(Print("a quarter filled"));
    FERRITE_RETURN_IF_ERROR(monitor_->Run("rm /tmp/used").status());
    FERRITE_RETURN_IF_ERROR(Settle("freed and reported"));
    FERRITE_RETURN_IF_ERROR(Scan("freed and reported, khugepaged went through"));
    FERRITE_RETURN_IF_ERROR(Balloon(mib_ / 2));
    FERRITE_RETURN_IF_ERROR(Settle("half in the balloon"));
    FERRITE_RETURN_IF_ERROR(Scan("half in the balloon, khugepaged went through"));
    // Has the kernel split the huge pages of which parts are not mapped any more, as when memory is short.
    FERRITE_RETURN_IF_ERROR(WriteSetting("/proc/sys/vm/drop_caches", "2"));
    FERRITE_RETURN_IF_ERROR(Print("half in the balloon, the host took what it could"));
    FERRITE_RETURN_IF_ERROR(Balloon(0));
    FERRITE_RETURN_IF_ERROR(Settle("balloon empty"));
    FERRITE_RETURN_IF_ERROR(Scan("balloon empty, khugepaged went through"));
    // Free memory in pieces of 256 KiB, which a guest puts into its balloon before whole blocks.
    FERRITE_RETURN_IF_ERROR(
        monitor_
            ->Run(absl::StrFormat("i=0; while [ $i -lt %d ]; do head -c 262144 /dev/zero >/tmp/part$i; i=$((i + 1)); "
                                  "done; rm /tmp/part*[13579]",
                                  mib_))
            .status());
    FERRITE_RETURN_IF_ERROR(Print("a quarter filled, every second piece freed"));
    FERRITE_RETURN_IF_ERROR(Balloon(mib_ / 8));
    FERRITE_RETURN_IF_ERROR(Settle("pieces in the balloon"));
    return Scan("pieces in the balloon, khugepaged went through");
  }

 private:
  absl::StatusOr<MemoryUse> Read() { return ReadMemoryUse(monitor_->pid(), uint64_t{mib_} << 20); }

  absl::Status Print(const char* stage) {
    FERRITE_ASSIGN_OR_RETURN(const MemoryUse use, Read());
    if (use.guest_resident < 8 * kMiBytes) {
      return absl::InternalError(absl::StrCat(variant_.name, ": the guest's memory is not where it should be"));
    }
    const double used = static_cast<double>(static_cast<int64_t>(HostUsed() - host_before_)) / kMiBytes;
    absl::PrintF("%4d MiB, %-30s %-48s %7.1f %7.1f %7.1f %7.1f\n", mib_, variant_.name, stage,
                 static_cast<double>(use.guest_resident) / kMiBytes, static_cast<double>(use.guest_huge) / kMiBytes,
                 static_cast<double>(use.own) / kMiBytes, used);
    (void)std::fflush(stdout);
    return absl::OkStatus();
  }

  // When the guest's memory is no other for some seconds.
  absl::Status Settle(const char* stage) {
    uint64_t before = 0;
    int quiet = 0;
    for (const MonotonicTime deadline = MonotonicTime::Now() + kLimit;
         quiet < kQuietPolls && MonotonicTime::Now() < deadline; absl::SleepFor(kPoll)) {
      FERRITE_ASSIGN_OR_RETURN(const MemoryUse use, Read());
      quiet = use.guest_resident == before ? quiet + 1 : 0;
      before = use.guest_resident;
    }
    return Print(stage);
  }

  // When khugepaged has looked at all memory, which takes it minutes by default: the long run.
  absl::Status Scan(const char* stage) {
    if (!variant_.thp) {
      return absl::OkStatus();  // nothing for it to look at
    }
    const std::string directory = absl::StrCat(kThp, "khugepaged/");
    const std::string pause = ReadSetting(directory + "scan_sleep_millisecs");
    const auto scans = [&] { return std::strtoull(ReadSetting(directory + "full_scans").c_str(), nullptr, 10); };
    const uint64_t wanted = scans() + kScans;
    FERRITE_RETURN_IF_ERROR(WriteSetting(directory + "scan_sleep_millisecs", "20"));
    const MonotonicTime deadline = MonotonicTime::Now() + kLimit;
    while (scans() < wanted && MonotonicTime::Now() < deadline) {
      absl::SleepFor(kPoll);
    }
    FERRITE_RETURN_IF_ERROR(WriteSetting(directory + "scan_sleep_millisecs", pause));
    return scans() < wanted ? absl::DeadlineExceededError("khugepaged does not come to an end") : Print(stage);
  }

  absl::Status Balloon(uint32_t mib) {
    const absl::Status status = monitor_->Balloon(uint64_t{mib} << 20);
    return status.ok() ? status : Annotate(status, absl::StrCat(monitor_->name(), ", ", monitor_->LastWords()));
  }

  const Variant variant_;
  const uint32_t mib_;
  const WorkDirectory directory_;
  const std::unique_ptr<LinuxMonitor> monitor_;
  uint64_t host_before_ = 0;
};

absl::Status Measure() {
  const std::string enabled = absl::StrCat(kThp, "enabled");
  absl::PrintF(
      "inputs: Debian's cloud kernel in nested, emulated KVM; 1 vCPU; ferrite on anonymous memory; QEMU 7.2's microvm "
      "program; transparent huge pages of the outer machine: `%s`, of its kernel's own accord, `madvise` here; defrag "
      "`%s`, khugepaged's max_ptes_none %s; the outer machine: %s\n",
      ReadSetting(enabled), ReadSetting(absl::StrCat(kThp, "defrag")),
      ReadSetting(absl::StrCat(kThp, "khugepaged/max_ptes_none")), WhereItRuns(Needs::kKvm));
  FERRITE_RETURN_IF_ERROR(WriteSetting(enabled, "madvise"));
  FERRITE_RETURN_IF_ERROR(ShortenFreeLists());
  absl::PrintF("%-88s %7s %7s %7s %7s\n",
               "MiB: of the guest's memory resident, and of that on huge pages; "
               "the monitor's own; all of the host's",
               "guest", "huge", "own", "host");
  for (const uint32_t size : kSizesMib) {
    for (const Variant& variant : kVariants) {
      Guest guest(variant, size);
      FERRITE_RETURN_IF_ERROR(guest.Measure());
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace ferrite

int main() {
  const absl::Status status = ferrite::Measure();
  if (!status.ok()) {
    // Standard output: the outer machine shows both alike, but only whole lines.
    absl::PrintF("linux_memory_bench: %s\n", status.ToString());
    return 1;
  }
  return 0;
}
