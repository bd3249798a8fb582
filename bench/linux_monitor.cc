#include "bench/linux_monitor.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
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
                                          "--console",
                                          "stdio"};
    if (options.devices) {
      FERRITE_ASSIGN_OR_RETURN(const std::string disk, MakeDisk(options));
      arguments.insert(arguments.end(), {"--balloon", "0", "--rng", "--disk", absl::StrCat("path=", disk)});
    }
    directory_ = options.directory;
    return StartProcess(std::move(arguments));
  }

  absl::Status Balloon(uint64_t bytes) override {
    if (client_ == nullptr) {
      FERRITE_ASSIGN_OR_RETURN(client_, ControlClient::ConnectToMachine(directory_, "bench"));
    }
    FERRITE_RETURN_IF_ERROR(client_->SetBalloon(bytes, absl::ZeroDuration()).status());
    for (const MonotonicTime deadline = MonotonicTime::Now() + kTimeout; MonotonicTime::Now() < deadline;
         absl::SleepFor(kBalloonPoll)) {
      FERRITE_ASSIGN_OR_RETURN(const BalloonFigures figures, client_->Balloon());
      if (figures.actual_bytes == bytes) {
        return absl::OkStatus();
      }
    }
    return absl::DeadlineExceededError("ferrite's balloon does not reach its target");
  }

 private:
  std::string directory_;
  std::unique_ptr<ControlClient> client_;
};

// Debian's QEMU for microvm machines alone, without option ROMs, as QEMU's documentation recommends (docs/system/i386/
// microvm). ACPI, because Debian's kernel finds the devices by it; the real-time clock, because the kernel waits some
// seconds for it when it is off.
class Qemu final : public LinuxMonitor {
 public:
  const char* name() const override { return "QEMU microvm"; }

  absl::Status Start(const GuestOptions& options) override {
    memory_bytes_ = uint64_t{options.memory_mib} << 20;
    socket_path_ = absl::StrCat(options.directory, "/qmp");
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
      arguments.insert(arguments.end(),
                       {"-drive", absl::StrCat("if=none,id=disk,format=raw,file=", disk), "-device",
                        "virtio-blk-device,drive=disk", "-device", "virtio-balloon-device", "-device",
                        "virtio-rng-device", "-qmp", absl::StrCat("unix:", socket_path_, ",server=on,wait=off")});
    }
    return StartProcess(std::move(arguments));
  }

  absl::Status Balloon(uint64_t bytes) override {
    if (!socket_.valid()) {
      FERRITE_RETURN_IF_ERROR(Connect());
    }
    // QEMU is told what the guest keeps.
    const uint64_t kept = memory_bytes_ - bytes;
    FERRITE_RETURN_IF_ERROR(
        Ask(absl::StrCat(R"({"execute": "balloon", "arguments": {"value": )", kept, "}}"), R"("return")").status());
    for (const MonotonicTime deadline = MonotonicTime::Now() + kTimeout; MonotonicTime::Now() < deadline;
         absl::SleepFor(kBalloonPoll)) {
      FERRITE_ASSIGN_OR_RETURN(const std::string answer,
                               Ask(R"({"execute": "query-balloon"})", R"({"return": {"actual": )"));
      const std::string digits = answer.substr(0, answer.find_first_not_of("0123456789"));
      uint64_t actual = 0;
      if (absl::SimpleAtoi(digits, &actual) && actual == kept) {
        return absl::OkStatus();
      }
    }
    return absl::DeadlineExceededError("QEMU's balloon does not reach its target");
  }

 private:
  absl::Status Connect() {
    socket_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (socket_path_.size() >= sizeof(address.sun_path)) {
      return absl::InvalidArgumentError(absl::StrCat(socket_path_, " is too long for a socket"));
    }
    std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
    if (connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      return ErrnoStatus(absl::StrCat("connect to ", socket_path_));
    }
    return Ask(R"({"execute": "qmp_capabilities"})", R"("return")").status();
  }

  // What follows `wanted` in the line of the answer that has it. Greetings and events are passed over.
  absl::StatusOr<std::string> Ask(const std::string& command, absl::string_view wanted) {
    const std::string line = command + "\n";
    if (write(socket_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      return ErrnoStatus("write to QEMU's monitor");
    }
    for (;;) {
      const size_t end = heard_.find('\n');
      if (end != std::string::npos) {
        const std::string answer = heard_.substr(0, end);
        heard_.erase(0, end + 1);
        if (const size_t at = answer.find(wanted.data(), 0, wanted.size()); at != std::string::npos) {
          return answer.substr(at + wanted.size());
        }
        if (answer.find("\"error\"") != std::string::npos) {
          return absl::InternalError(absl::StrCat("QEMU: ", answer));
        }
        continue;
      }
      char buffer[4096];
      const ssize_t bytes = read(socket_.get(), buffer, sizeof(buffer));
      if (bytes <= 0) {
        return ErrnoStatus("read from QEMU's monitor");
      }
      heard_.append(buffer, static_cast<size_t>(bytes));
    }
  }

  uint64_t memory_bytes_ = 0;
  std::string socket_path_;
  Fd socket_;
  std::string heard_;
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
