#include "tests/fakes/ferrite_process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr int kDeadlineMs = 60'000;

Fd MemoryFile(const char* name) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  FERRITE_CHECK(fd.valid());
  return fd;
}

std::string Contents(const Fd& fd) {
  std::string text(static_cast<size_t>(lseek(fd.get(), 0, SEEK_END)), '\0');
  FERRITE_CHECK(pread(fd.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  return text;
}

}  // namespace

FerriteProcess::FerriteProcess(const std::vector<std::string>& words, uid_t user, const std::function<void()>& in_child,
                               const char* path)
    : out_(MemoryFile("out")), err_(MemoryFile("err")) {
  std::vector<char*> arguments = {const_cast<char*>("ferrite")};
  for (const std::string& word : words) {
    arguments.push_back(const_cast<char*>(word.c_str()));
  }
  arguments.push_back(nullptr);
  // By descriptor: another user may not be allowed to reach the path.
  const Fd program(open(path, O_RDONLY | O_CLOEXEC));
  FERRITE_CHECK(program.valid());
  pid_ = fork();
  FERRITE_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(out_.get(), STDOUT_FILENO);
    dup2(err_.get(), STDERR_FILENO);
    if (user != 0 && (setgroups(0, nullptr) != 0 || setgid(user) != 0 || setuid(user) != 0)) {
      _exit(126);
    }
    if (in_child) {
      in_child();
    }
    fexecve(program.get(), arguments.data(), environ);
    _exit(127);
  }
}

FerriteProcess::~FerriteProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void FerriteProcess::Signal(int signal) const { FERRITE_CHECK(kill(pid_, signal) == 0); }

bool FerriteProcess::HasEnded() const {
  siginfo_t info = {};
  FERRITE_CHECK(waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0);
  return info.si_pid != 0;
}

Finished FerriteProcess::Wait() {
  const Fd ended(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  pollfd polled = {ended.get(), POLLIN, 0};
  if (poll(&polled, 1, kDeadlineMs) != 1) {
    kill(pid_, SIGKILL);
  }
  int status = 0;
  FERRITE_CHECK(waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Contents(out_), Contents(err_)};
}

Finished RunFerrite(const std::vector<std::string>& words, uid_t user) { return FerriteProcess(words, user).Wait(); }

}  // namespace ferrite
