#include "tests/fakes/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/poll.h"
#include "base/status.h"

namespace ferrite {
namespace {

absl::StatusOr<pid_t> Spawn(std::vector<char*>& arguments, const ChildProcess::Options& options) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const int given[] = {options.input, options.output, options.error};
  for (int standard = 0; standard < 3; ++standard) {
    if (given[standard] >= 0) {
      posix_spawn_file_actions_adddup2(&actions, given[standard], standard);
    } else {
      posix_spawn_file_actions_addopen(&actions, standard, "/dev/null", O_RDWR, 0);
    }
  }
  pid_t pid = -1;
  const int error = posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return ErrnoStatus(error, absl::StrCat("start ", arguments[0]));
  }
  return pid;
}

absl::StatusOr<pid_t> Fork(std::vector<char*>& arguments, const ChildProcess::Options& options) {
  const pid_t pid = fork();
  if (pid < 0) {
    return ErrnoStatus("fork");
  }
  if (pid > 0) {
    return pid;
  }
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int given[] = {options.input, options.output, options.error};
  for (int standard = 0; standard < 3; ++standard) {
    dup2(given[standard] >= 0 ? given[standard] : null, standard);
  }
  if (options.in_child) {
    options.in_child();
  }
  if (options.program >= 0) {
    fexecve(options.program, arguments.data(), environ);
  } else {
    execv(arguments[0], arguments.data());
  }
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& arguments, const Options& options) {
  std::vector<char*> words;
  for (const std::string& argument : arguments) {
    words.push_back(const_cast<char*>(argument.c_str()));
  }
  words.push_back(nullptr);
  const bool copied = options.in_child != nullptr || options.program >= 0;
  FERRITE_ASSIGN_OR_RETURN(const pid_t pid, copied ? Fork(words, options) : Spawn(words, options));
  ChildProcess child(pid, Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))));
  if (!child.pidfd_.valid()) {
    return ErrnoStatus("pidfd_open");
  }
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void ChildProcess::Signal(int signal) const {
  // Not by number: that one may be another process's by now, and -1 is all of them.
  FERRITE_CHECK(syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0) == 0 || errno == ESRCH);
}

bool ChildProcess::HasEnded() const {
  siginfo_t info = {};
  FERRITE_CHECK(waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0);
  return info.si_pid != 0;
}

absl::StatusOr<ChildEnd> ChildProcess::Wait(absl::Duration limit) {
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  pollfd polled = {pidfd_.get(), POLLIN, 0};
  while (PollFor({&polled, 1}, deadline - MonotonicTime::Now()) != 1) {
    if (MonotonicTime::Now() >= deadline) {
      return absl::DeadlineExceededError("the program has not ended");
    }
  }
  int status = 0;
  ChildEnd end;
  if (wait4(pid_, &status, 0, &end.usage) != pid_) {
    return ErrnoStatus("wait for the program");
  }
  pid_ = -1;
  end.exited = WIFEXITED(status);
  end.number = end.exited ? WEXITSTATUS(status) : WTERMSIG(status);
  return end;
}

}  // namespace ferrite
