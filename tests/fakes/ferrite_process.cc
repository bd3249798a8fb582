#include "tests/fakes/ferrite_process.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(60);

Fd MemoryFile(const char* name) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  FERRITE_CHECK(fd.valid());
  return fd;
}

std::string Contents(const Fd& fd) {
  // Its offset is the child's, too.
  struct stat file;
  FERRITE_CHECK(fstat(fd.get(), &file) == 0);
  std::string text(static_cast<size_t>(file.st_size), '\0');
  FERRITE_CHECK(pread(fd.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  return text;
}

ChildProcess Start(std::vector<std::string> words, const char* path, const Fd& out, const Fd& err,
                   std::function<void()> in_child) {
  words.insert(words.begin(), "ferrite");
  // By descriptor: another user may not be allowed to reach the path.
  const Fd program(open(path, O_RDONLY | O_CLOEXEC));
  FERRITE_CHECK(program.valid());
  auto child = ChildProcess::Start(
      words, {.output = out.get(), .error = err.get(), .program = program.get(), .in_child = std::move(in_child)});
  FERRITE_CHECK(child.ok());
  return *std::move(child);
}

}  // namespace

FerriteProcess::FerriteProcess(const std::vector<std::string>& words, uid_t user, const std::function<void()>& in_child,
                               const char* path)
    : out_(MemoryFile("out")), err_(MemoryFile("err")), child_(Start(words, path, out_, err_, [&] {
        if (user != 0 && (setgroups(0, nullptr) != 0 || setgid(user) != 0 || setuid(user) != 0)) {
          _exit(126);
        }
        if (in_child) {
          in_child();
        }
      })) {}

std::string FerriteProcess::OutputSoFar() const { return Contents(out_); }

Finished FerriteProcess::Wait() {
  auto end = child_.Wait(kDeadline);
  if (!end.ok()) {
    child_.Signal(SIGKILL);
    end = child_.Wait();
    FERRITE_CHECK(end.ok());
  }
  return {end->exited ? end->number : -1, Contents(out_), Contents(err_)};
}

Finished RunFerrite(const std::vector<std::string>& words, uid_t user) { return FerriteProcess(words, user).Wait(); }

FerriteReceiver StartFerriteReceiver(std::vector<std::string> words, const std::function<void()>& in_child,
                                     const char* path) {
  int ends[2];
  FERRITE_CHECK(pipe2(ends, O_CLOEXEC) == 0);
  const Fd ready(ends[0]);
  Fd told(ends[1]);
  words.push_back("--ready-fd");
  words.push_back(absl::StrCat(told.get()));
  // Only that child keeps it: the end of the pipe is its own.
  const auto keep = [&] {
    FERRITE_CHECK(fcntl(told.get(), F_SETFD, 0) == 0);
    if (in_child) {
      in_child();
    }
  };
  FerriteReceiver receiver = {.process = std::make_unique<FerriteProcess>(words, /*user=*/0, keep, path)};
  told.Reset();
  for (char c = 0; read(ready.get(), &c, 1) == 1 && c != '\n';) {
    receiver.address.push_back(c);
  }
  return receiver;
}

}  // namespace ferrite
