// The ferrite command.
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/monotonic.h"
#include "vmm/app/command_line.h"
#include "vmm/app/commands.h"
#include "vmm/app/doctor.h"
#include "vmm/app/hiding.h"
#include "vmm/app/inheritance.h"
#include "vmm/app/logging.h"

namespace ferrite {
namespace {

// Half a huge page: where the kernel gives huge pages unasked (transparent_hugepage/enabled is `always`, as Debian has
// it), a larger stack that lies well becomes 2 MiB of memory with its first byte.
constexpr size_t kStackBytes = size_t{1} << 20;

void PrepareProcess() {
  // A descriptor that we open must not become somebody's standard output.
  while (true) {
    const int fd = open("/dev/null", O_RDWR);
    if (fd > STDERR_FILENO) {
      close(fd);
      break;
    }
    if (fd < 0) {
      break;
    }
  }
  // A reader that is gone is an error of write(), not the end.
  (void)signal(SIGPIPE, SIG_IGN);
  // A file that may not grow further (ulimit -f), as a disk of the guest's, is an error of write(), too.
  (void)signal(SIGXFSZ, SIG_IGN);
  // One heap for the few allocations of all threads: each more would cost memory for every machine.
  (void)mallopt(M_ARENA_MAX, 1);
  pthread_attr_t threads;
  if (pthread_getattr_default_np(&threads) == 0) {
    if (pthread_attr_setstacksize(&threads, kStackBytes) == 0) {
      (void)pthread_setattr_default_np(&threads);
    }
    (void)pthread_attr_destroy(&threads);
  }
  CleanEnvironment();
  LogToStandardError();
}

// Standard output is buffered: that a disk is full may show only now.
int Finish(int exit_code) {
  const bool written = fflush(stdout) == 0 && ferror(stdout) == 0;
  if (written || exit_code != kExitOk) {
    return exit_code;
  }
  return Fail(absl::DataLossError("standard output could not be written"), kExitFailure);
}

absl::Status CheckProcfs(const Command& command) {
  if (!command.needs_procfs() || ProcfsIsThere()) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError("no procfs is mounted at /proc, which ferrite needs: mount -t proc proc /proc");
}

// Checksums of a move are made by its instruction. Every processor that runs KVM has it.
absl::Status CheckProcessor() {
  if (__builtin_cpu_supports("sse4.2") == 0) {
    return absl::FailedPreconditionError("this host's processor lacks SSE4.2, which ferrite needs");
  }
  return absl::OkStatus();
}

int Main(std::vector<std::string> words, int64_t started_ns) {
  PrepareProcess();
  auto parsed = ParseCommandLine(std::move(words));
  if (const auto* end = std::get_if<ParseEnd>(&parsed)) {
    (void)fputs(end->text.c_str(), end->exit_code == kExitOk ? stdout : stderr);
    return Finish(end->exit_code);
  }
  Command& command = *std::get<std::unique_ptr<Command>>(parsed);
  CloseInheritedDescriptors(command.descriptor());
  for (const absl::Status& status : {CheckProcessor(), CheckProcfs(command)}) {
    if (!status.ok()) {
      return Fail(status, kExitFailure);
    }
  }
  return Finish(command.Run(started_ns));
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  const int64_t started_ns = ferrite::MonotonicNs();
  std::vector<std::string> words(argv + 1, argv + argc);
  ferrite::HideCommandLine(argc, argv);
  // An exception of a library, out of memory among them, ends in one line, too.
  try {
    return ferrite::Main(std::move(words), started_ns);
  } catch (const std::exception& error) {
    if (ferror(stdout) != 0) {
      return ferrite::Finish(ferrite::kExitOk);
    }
    return ferrite::Fail(absl::InternalError(error.what()), ferrite::kExitFailure);
  }
}
