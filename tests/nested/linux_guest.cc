#include "tests/nested/linux_guest.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr char kFerrite[] = "vmm/app/ferrite";
// The guest's words for the driver of its console.
constexpr absl::string_view kReady = "guest: ready\n";
constexpr absl::string_view kStatus = "guest: status ";

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<std::string> FerriteCommand(const std::vector<std::string>& arguments, const std::string& run_dir) {
  std::vector<std::string> command = {kFerrite};
  command.insert(command.end(), arguments.begin(), arguments.end());
  command.insert(command.end(), {"--run-dir", run_dir});
  return command;
}

}  // namespace

std::string TestRunDir() { return absl::StrCat(Environment("TEST_TMPDIR"), "/run"); }

absl::StatusOr<Finished> Ferrite(const std::vector<std::string>& arguments, const std::string& run_dir) {
  return RunProgram(FerriteCommand(arguments, run_dir), kCommandDeadline);
}

absl::StatusOr<std::unique_ptr<LinuxGuest>> LinuxGuest::Boot(const Options& options) {
  std::vector<std::string> arguments = {
      "run", "--name", options.name, "--kernel", options.kernel, "--initrd", options.initrd, "--cmdline",
      // The reset is through ACPI, as on hardware of this kind. A busy host may stop a vCPU for so long that the
      // kernel's watchdog would speak in the middle of an answer.
      absl::StrCat("console=ttyS0 quiet panic=-1 pci=off nowatchdog ", options.more_command_line), "--mem",
      options.memory, "--cpus", absl::StrCat(options.cpus), "--console", "stdio"};
  arguments.insert(arguments.end(), options.more_arguments.begin(), options.more_arguments.end());
  std::string transcript = Environment("TEST_UNDECLARED_OUTPUTS_DIR");
  if (!transcript.empty()) {
    absl::StrAppend(&transcript, "/", options.name, ".log");
  }
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Program> monitor,
                           Program::Start(FerriteCommand(arguments, TestRunDir()), transcript));
  std::unique_ptr<LinuxGuest> guest(new LinuxGuest(options, std::move(transcript), std::move(monitor)));
  FERRITE_RETURN_IF_ERROR(guest->WaitUntilReady());
  return guest;
}

std::string LinuxGuest::Base(bool other) const { return absl::StrCat(TestRunDir(), away_ != other ? "-away" : ""); }

std::string LinuxGuest::RunDir() const { return absl::StrCat(Base(false), "/", name_); }

absl::Status LinuxGuest::WaitUntilReady() { return monitor_->ReadUntil(kReady, kBootDeadline).status(); }

absl::Status LinuxGuest::Send(absl::string_view line) { return monitor_->Write(absl::StrCat(line, "\n")); }

absl::StatusOr<std::string> LinuxGuest::Run(absl::string_view line, absl::Duration deadline) {
  FERRITE_RETURN_IF_ERROR(Send(line));
  absl::StatusOr<std::string> answer = monitor_->ReadUntil(kStatus, deadline);
  if (absl::IsDeadlineExceeded(answer.status())) {
    return Annotate(answer.status(), absl::StrCat("`", line, "` has no answer; ", DescribeSilence()));
  }
  FERRITE_ASSIGN_OR_RETURN(std::string output, std::move(answer));
  FERRITE_ASSIGN_OR_RETURN(std::string status, monitor_->ReadUntil("\n", kCommandDeadline));
  if (absl::StripSuffix(status, "\r") != "0") {
    return absl::UnknownError(absl::StrCat("in the guest: `", line, "` ended with ", status, " and said:\n", output));
  }
  return output;
}

std::string LinuxGuest::DescribeSilence() {
  constexpr char kThreads[] =
      "for t in /proc/$0/task/*; do cat $t/comm; cut -d ' ' -f 3,14,15 $t/stat; cat $t/syscall $t/stack; done 2>&1";
  const auto threads = RunProgram({"/bin/sh", "-c", kThreads, absl::StrCat(monitor_->pid())}, kCommandDeadline);
  const auto info = Command("info");
  // Brings the vCPUs out of KVM_RUN: tells a guest that cannot go on from one that nobody woke.
  const bool kicked = Command("pause").ok() && Command("resume").ok();
  const bool woken = kicked && monitor_->ReadUntil(kStatus, kCommandDeadline).ok();
  return absl::StrCat(woken ? "a pause and a resume brought it" : "nor after a pause and a resume", "; the monitor:\n",
                      info.ok() ? info->output : info.status().ToString(),
                      "its threads (state, ticks in user and kernel):\n",
                      threads.ok() ? threads->output : threads.status().ToString());
}

absl::StatusOr<int> LinuxGuest::WaitForExit(absl::Duration deadline) { return monitor_->Wait(deadline); }

absl::StatusOr<Finished> LinuxGuest::Command(absl::string_view command,
                                             const std::vector<std::string>& arguments) const {
  std::vector<std::string> all = {std::string(command), name_};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return Ferrite(all, Base(false));
}

absl::Status LinuxGuest::StartReceiver(const std::vector<std::string>& arguments) {
  const char* const device = getenv("FERRITE_TEST_RDMA");
  const std::string listen = device == nullptr ? "tcp:127.0.0.1:0" : absl::StrCat("rdma:", device, ":0");
  std::vector<std::string> all = {"receive",
                                  "--name",
                                  name_,
                                  "--listen",
                                  listen,
                                  "--kernel",
                                  kernel_,
                                  "--initrd",
                                  initrd_,
                                  "--disk-from",
                                  Environment("TEST_TMPDIR")};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::filesystem::create_directories(Base(true));
  FERRITE_ASSIGN_OR_RETURN(receiver_, Program::Start(FerriteCommand(all, Base(true)), transcript_));
  FERRITE_RETURN_IF_ERROR(receiver_->ReadUntil(" waits at ", kCommandDeadline).status());
  FERRITE_ASSIGN_OR_RETURN(address_, receiver_->ReadUntil("\n", kCommandDeadline));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Program>> LinuxGuest::StartMove(const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"move", name_, address_};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return Program::Start(FerriteCommand(all, Base(false)));
}

absl::Status LinuxGuest::Arrive() {
  FERRITE_ASSIGN_OR_RETURN(const int code, monitor_->Wait(kCommandDeadline));
  if (code != 0) {
    return absl::UnknownError(absl::StrCat("the source's monitor ended with ", code, ":\n", monitor_->output()));
  }
  monitor_ = std::move(receiver_);
  away_ = !away_;
  return absl::OkStatus();
}

absl::StatusOr<std::string> LinuxGuest::EndReceiver() {
  const std::unique_ptr<Program> receiver = std::move(receiver_);
  FERRITE_ASSIGN_OR_RETURN(const int code, receiver->Wait(kCommandDeadline));
  if (code != 1) {
    return absl::UnknownError(absl::StrCat("the receiver ended with ", code, ", not 1:\n", receiver->output()));
  }
  return receiver->output();
}

absl::StatusOr<std::string> LinuxGuest::Move(const std::vector<std::string>& arguments,
                                             const std::vector<std::string>& receiver_arguments) {
  FERRITE_RETURN_IF_ERROR(StartReceiver(receiver_arguments));
  FERRITE_ASSIGN_OR_RETURN(const auto move, StartMove(arguments));
  return EndMove(*move);
}

absl::StatusOr<std::string> LinuxGuest::EndMove(Program& move) {
  FERRITE_ASSIGN_OR_RETURN(const int code, move.Wait(kMoveDeadline));
  if (code != 0) {
    (void)receiver_->Wait(kCommandDeadline);
    return absl::UnknownError(absl::StrCat("`ferrite move` ended with ", code, ":\n", move.output(),
                                           "\nand the receiver said:\n", receiver_->output()));
  }
  FERRITE_RETURN_IF_ERROR(Arrive());
  return move.output();
}

absl::StatusOr<uint64_t> LinuxGuest::HostMemoryBytes() const {
  const std::string process = absl::StrCat("/proc/", monitor_->pid());
  uint64_t bytes = 0;
  std::ifstream status(process + "/status");
  for (std::string line; std::getline(status, line);) {
    absl::string_view value = line;
    uint64_t kib = 0;
    if (absl::ConsumePrefix(&value, "RssAnon:") && absl::ConsumeSuffix(&value, " kB") &&
        absl::SimpleAtoi(value, &kib)) {
      bytes += kib << 10;
    }
  }
  // The monitor opens and closes descriptors while we look: one that has gone meanwhile counts nothing.
  std::error_code listing;
  std::filesystem::directory_iterator entry(process + "/fd", listing);
  for (; !listing && entry != std::filesystem::directory_iterator(); entry.increment(listing)) {
    std::error_code gone;
    struct stat file = {};
    const std::string target = std::filesystem::read_symlink(entry->path(), gone).string();
    if (target.rfind("/memfd:", 0) == 0 && stat(entry->path().c_str(), &file) == 0) {
      bytes += static_cast<uint64_t>(file.st_blocks) * 512;
    }
  }
  if (listing || bytes == 0) {
    return absl::NotFoundError(absl::StrCat(process, ": no memory figures: ", listing.message()));
  }
  return bytes;
}

}  // namespace ferrite
