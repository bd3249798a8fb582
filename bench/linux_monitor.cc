#include "bench/linux_monitor.h"

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "bench/qmp_client.h"
#include "bench/samples.h"
#include "vmm/control/client.h"

namespace ferrite {
namespace {

// The outer machine is emulated, perhaps on a loaded host.
constexpr absl::Duration kTimeout = absl::Seconds(180);
constexpr absl::Duration kBalloonPoll = absl::Milliseconds(5);
constexpr char kCommandLine[] = "console=ttyS0 quiet panic=-1";
constexpr char kStatus[] = "guest: status ";

std::string Kernel() { return DataPath("external/debian_kernel/vmlinuz"); }
std::string Initrd() { return DataPath("tests/nested/guest.cpio.gz"); }

absl::StatusOr<std::string> MakeDisk(const GuestOptions& options) {
  std::string path = absl::StrCat(options.directory, "/disk.img");
  FERRITE_ASSIGN_OR_RETURN(const Fd disk, OpenFile(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
  // Written once: no allocation is measured.
  const std::vector<uint8_t> chunk(1 << 20, 0x5a);
  for (uint32_t i = 0; i < options.disk_mib; ++i) {
    if (write(disk.get(), chunk.data(), chunk.size()) != static_cast<ssize_t>(chunk.size())) {
      return ErrnoStatus(absl::StrCat("write ", path));
    }
  }
  return path;
}

class Ferrite final : public LinuxMonitor {
 public:
  const char* name() const override { return "ferrite"; }

  absl::Status Start(const GuestOptions& options) override {
    std::vector<std::string> arguments = {DataPath("vmm/app/ferrite"),
                                          "run",
                                          "--debuggable",  // for memory_use.h
                                          "--run-dir",
                                          options.directory,
                                          "--name",
                                          "bench",
                                          "--kernel",
                                          Kernel(),
                                          "--initrd",
                                          Initrd(),
                                          "--cmdline",
                                          kCommandLine,
                                          "--mem",
                                          absl::StrCat(options.memory_mib, "M"),
                                          "--thp",
                                          options.thp ? "on" : "off",
                                          "--console",
                                          "stdio"};
    if (options.devices) {
      FERRITE_ASSIGN_OR_RETURN(const std::string disk, MakeDisk(options));
      arguments.insert(arguments.end(), {"--rng", "--disk", absl::StrCat("path=", disk)});
    }
    if (options.devices || options.balloon) {
      arguments.insert(arguments.end(), {"--balloon", "0"});
    }
    directory_ = options.directory;
    return StartProcess(std::move(arguments));
  }

  absl::Status Balloon(uint64_t bytes) override {
    // A new connection each time: one that nobody waits at for long takes its next answer for late.
    FERRITE_ASSIGN_OR_RETURN(const auto client, ControlClient::ConnectToMachine(directory_, "bench"));
    FERRITE_RETURN_IF_ERROR(client->SetBalloon(bytes, absl::ZeroDuration()).status());
    for (const MonotonicTime deadline = MonotonicTime::Now() + kTimeout; MonotonicTime::Now() < deadline;
         absl::SleepFor(kBalloonPoll)) {
      FERRITE_ASSIGN_OR_RETURN(const BalloonFigures figures, client->Balloon());
      if (figures.actual_bytes == bytes) {
        return absl::OkStatus();
      }
    }
    return absl::DeadlineExceededError("ferrite's balloon does not reach its target");
  }

 private:
  std::string directory_;
};

// Debian's QEMU for microvm machines alone, without option ROMs, as QEMU's documentation recommends (docs/system/i386/
// microvm). ACPI, because Debian's kernel finds the devices by it; the real-time clock, because the kernel waits some
// seconds for it when it is off.
class Qemu final : public LinuxMonitor {
 public:
  const char* name() const override { return "QEMU microvm"; }

  absl::Status Start(const GuestOptions& options) override {
    memory_bytes_ = uint64_t{options.memory_mib} << 20;
    std::vector<std::string> arguments = {DataPath("bench/qemu/qemu-system-x86_64-microvm"),
                                          "-L",
                                          DataPath("bench/qemu"),
                                          "-M",
                                          "microvm,x-option-roms=off,acpi=on",
                                          "-accel",
                                          "kvm",
                                          "-cpu",
                                          "host",
                                          "-m",
                                          absl::StrCat(options.memory_mib, "M"),
                                          "-smp",
                                          "1",
                                          "-nodefaults",
                                          "-no-user-config",
                                          "-display",
                                          "none",
                                          "-no-reboot",
                                          "-kernel",
                                          Kernel(),
                                          "-initrd",
                                          Initrd(),
                                          "-append",
                                          kCommandLine,
                                          "-serial",
                                          "stdio"};
    if (options.devices) {
      FERRITE_ASSIGN_OR_RETURN(const std::string disk, MakeDisk(options));
      arguments.insert(arguments.end(), {"-drive", absl::StrCat("if=none,id=disk,format=raw,file=", disk), "-device",
                                         "virtio-blk-device,drive=disk", "-device", "virtio-rng-device"});
    }
    if (options.devices || options.balloon) {
      const std::string socket = absl::StrCat(options.directory, "/qmp");
      FERRITE_ASSIGN_OR_RETURN(qmp_, QmpClient::Listen(socket));
      arguments.insert(arguments.end(), {"-device", "virtio-balloon-device,free-page-reporting=on", "-qmp",
                                         absl::StrCat("unix:", socket)});
    }
    return StartProcess(std::move(arguments));
  }

  absl::Status Balloon(uint64_t bytes) override {
    if (!accepted_) {
      FERRITE_RETURN_IF_ERROR(qmp_->Accept(kTimeout));
      accepted_ = true;
    }
    // QEMU is told what the guest keeps.
    const uint64_t kept = memory_bytes_ - bytes;
    FERRITE_RETURN_IF_ERROR(qmp_->Execute("balloon", {{"value", kept}}).status());
    for (const MonotonicTime deadline = MonotonicTime::Now() + kTimeout; MonotonicTime::Now() < deadline;
         absl::SleepFor(kBalloonPoll)) {
      FERRITE_ASSIGN_OR_RETURN(const nlohmann::json balloon, qmp_->Execute("query-balloon"));
      if (balloon.value("actual", uint64_t{0}) == kept) {
        return absl::OkStatus();
      }
    }
    return absl::DeadlineExceededError("QEMU's balloon does not reach its target");
  }

 private:
  uint64_t memory_bytes_ = 0;
  std::unique_ptr<QmpClient> qmp_;  // with a balloon
  bool accepted_ = false;
};

}  // namespace

absl::Status LinuxMonitor::StartProcess(std::vector<std::string> arguments) {
  // What the monitor complains about is to be seen where the guest's console is.
  arguments.insert(arguments.begin(), {"/bin/sh", "-c", "exec \"$@\" 2>&1", "sh"});
  FERRITE_ASSIGN_OR_RETURN(process_, MonitorProcess::Start(std::move(arguments)));
  return absl::OkStatus();
}

std::string LinuxMonitor::LastWords() {
  return std::string(process_->WaitFor("(all of it)", absl::Seconds(1)).status().message());
}

absl::StatusOr<double> LinuxMonitor::WaitSince(absl::string_view text) {
  const auto at = process_->WaitFor(text, kTimeout);
  if (!at.ok()) {
    return Annotate(at.status(), name());
  }
  return *at - process_->started();
}

absl::StatusOr<double> LinuxMonitor::WaitForInit() { return WaitSince("guest: init"); }

absl::StatusOr<double> LinuxMonitor::WaitForReady() { return WaitSince("guest: ready\n"); }

absl::StatusOr<std::string> LinuxMonitor::Run(absl::string_view line) {
  FERRITE_RETURN_IF_ERROR(process_->Write(absl::StrCat(line, "; echo \"guest: said $?\"\n")));
  std::string output;
  for (;;) {
    // Line by line, up to the one with the status.
    FERRITE_ASSIGN_OR_RETURN(const std::string said, process_->WaitForLine("", kTimeout));
    if (said.find("guest: said 0") != std::string::npos) {
      break;
    }
    if (said.find("guest: said") != std::string::npos) {
      return absl::InternalError(absl::StrCat(name(), ": `", line, "`: ", output, said));
    }
    absl::StrAppend(&output, said, "\n");
  }
  FERRITE_RETURN_IF_ERROR(process_->WaitForLine(kStatus, kTimeout).status());
  return output;
}

std::unique_ptr<LinuxMonitor> NewFerrite() { return std::make_unique<Ferrite>(); }
std::unique_ptr<LinuxMonitor> NewQemu() { return std::make_unique<Qemu>(); }

}  // namespace ferrite
