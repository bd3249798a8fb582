#include "vmm/app/detach.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"

namespace ferrite {
namespace {

// A descriptor of the caller's that we kept (a lock, the end of a pipe) would live as long as the machine.
int CloseAllBut(Fd keep) {
  const int first = STDERR_FILENO + 1;
  if (keep.get() != first) {
    (void)dup3(keep.get(), first, O_CLOEXEC);
    keep.Reset();
  } else {
    (void)keep.Release();
  }
  (void)close_range(static_cast<unsigned>(first) + 1, ~0U, 0);
  return first;
}

[[noreturn]] void BeChild(Fd report, const std::function<int(const std::function<void()>&)>& body) {
  const Fd channel(CloseAllBut(std::move(report)));
  (void)setsid();
  [[maybe_unused]] const int entered = chdir("/");  // so as to keep no file system busy
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  (void)dup2(null.get(), STDIN_FILENO);
  (void)dup2(null.get(), STDOUT_FILENO);
  const int exit_code = body([&] {
    (void)dup2(null.get(), STDERR_FILENO);
    const char byte = 1;
    // A caller that is gone has nothing to be told.
    (void)!write(channel.get(), &byte, 1);
  });
  exit(exit_code);
}

}  // namespace

absl::StatusOr<Detached> RunDetached(const std::function<int(const std::function<void()>& ready)>& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return ErrnoStatus("make a pipe");
  }
  const Fd answer(ends[0]);
  Fd report(ends[1]);
  Detached child;
  child.pid = fork();
  if (child.pid < 0) {
    return ErrnoStatus("fork");
  }
  if (child.pid == 0) {
    BeChild(std::move(report), body);
  }
  report.Reset();
  char byte = 0;
  ssize_t n = 0;
  do {
    n = read(answer.get(), &byte, 1);
  } while (n < 0 && errno == EINTR);
  child.ready = n == 1;
  if (child.ready) {
    return child;
  }
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    return absl::InternalError(
        absl::StrCat("the monitor was killed by signal ", WTERMSIG(status), " before the machine ran"));
  }
  child.exit_code = WEXITSTATUS(status);
  return child;
}

}  // namespace ferrite
