#include "tests/nested/program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite {
namespace {

// Until fd has something to tell, in the sense of poll(2). False when the time is up.
absl::StatusOr<bool> PollUntil(int fd, MonotonicTime until) {
  while (true) {
    int64_t left = std::max<int64_t>(0, absl::ToInt64Milliseconds(until - MonotonicTime::Now()));
    pollfd poll_fd = {.fd = fd, .events = POLLIN, .revents = 0};
    int ready = poll(&poll_fd, 1, static_cast<int>(std::min<int64_t>(left, 1'000'000)));
    if (ready > 0) {
      return true;
    }
    if (ready < 0 && errno != EINTR) {
      return ErrnoStatus("poll");
    }
    if (left == 0) {
      return false;
    }
  }
}

struct Pipe {
  Fd read;
  Fd write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return ErrnoStatus("pipe2");
  }
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Program>> Program::Start(const std::vector<std::string>& arguments,
                                                        const std::string& transcript) {
  FERRITE_ASSIGN_OR_RETURN(Pipe input, MakePipe());
  FERRITE_ASSIGN_OR_RETURN(Pipe output, MakePipe());
  Fd transcript_fd;
  if (!transcript.empty()) {
    FERRITE_ASSIGN_OR_RETURN(transcript_fd, OpenFile(transcript, O_WRONLY | O_CREAT | O_APPEND, 0644));
  }
  FERRITE_ASSIGN_OR_RETURN(ChildProcess child,
                           ChildProcess::Start(arguments, {.input = input.read.get(),
                                                           .output = output.write.get(),
                                                           .error = output.write.get(),
                                                           .in_child = [] { prctl(PR_SET_PDEATHSIG, SIGKILL); }}));
  // A program that has ended while we talk to it is an error of Write, not our end.
  signal(SIGPIPE, SIG_IGN);
  return std::unique_ptr<Program>(
      new Program(std::move(child), std::move(input.write), std::move(output.read), std::move(transcript_fd)));
}

Program::Program(ChildProcess child, Fd input, Fd output, Fd transcript)
    : child_(std::move(child)),
      input_(std::move(input)),
      output_(std::move(output)),
      transcript_(std::move(transcript)) {}

absl::StatusOr<bool> Program::ReadMore(MonotonicTime until) {
  FERRITE_ASSIGN_OR_RETURN(bool ready, PollUntil(output_.get(), until));
  if (!ready) {
    return absl::DeadlineExceededError("time is up");
  }
  char buffer[4096];
  ssize_t count = read(output_.get(), buffer, sizeof(buffer));
  if (count < 0) {
    return ErrnoStatus("read from the program");
  }
  unread_.append(buffer, count);
  if (transcript_.valid() && write(transcript_.get(), buffer, count) != count) {
    return ErrnoStatus("write the transcript");
  }
  return count > 0;
}

absl::StatusOr<std::string> Program::ReadUntil(absl::string_view text, absl::Duration deadline) {
  const MonotonicTime until = MonotonicTime::Now() + deadline;
  while (true) {
    if (size_t found = unread_.find(text.data(), 0, text.size()); found != std::string::npos) {
      std::string before = unread_.substr(0, found);
      unread_.erase(0, found + text.size());
      return before;
    }
    absl::StatusOr<bool> more = ReadMore(until);
    if (!more.ok()) {
      return Annotate(more.status(), absl::StrCat("wait for \"", text, "\" after:\n", unread_, "\n"));
    }
    if (!*more) {
      return absl::OutOfRangeError(absl::StrCat("the program ended before \"", text, "\"; its output:\n", unread_));
    }
  }
}

absl::Status Program::Write(absl::string_view text) {
  while (!text.empty()) {
    ssize_t count = write(input_.get(), text.data(), text.size());
    if (count < 0) {
      return ErrnoStatus("write to the program");
    }
    text.remove_prefix(count);
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Program::Wait(absl::Duration deadline) {
  const MonotonicTime until = MonotonicTime::Now() + deadline;
  // Its output first, so that it never waits for us. A child of it may hold the pipe open longer than it lives.
  pollfd fds[2] = {{output_.get(), POLLIN, 0}, {child_.pidfd().get(), POLLIN, 0}};
  while (true) {
    int64_t left = std::max<int64_t>(0, absl::ToInt64Milliseconds(until - MonotonicTime::Now()));
    int ready = poll(fds, 2, static_cast<int>(std::min<int64_t>(left, 1'000'000)));
    if (ready == 0 && left == 0) {
      return absl::DeadlineExceededError(absl::StrCat("the program has not ended; its output:\n", unread_));
    }
    if (ready <= 0) {
      continue;
    }
    if (fds[0].revents != 0) {
      FERRITE_ASSIGN_OR_RETURN(const bool more, ReadMore(until));
      if (!more) {
        fds[0].fd = -1;  // closed: only the end of the process is left to wait for
      }
    } else if (fds[1].revents & POLLIN) {
      break;
    }
  }
  FERRITE_ASSIGN_OR_RETURN(const ChildEnd end, child_.Wait());
  return end.exited ? end.number : 128 + end.number;
}

absl::StatusOr<Finished> RunProgram(const std::vector<std::string>& arguments, absl::Duration deadline) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Program> program, Program::Start(arguments));
  FERRITE_ASSIGN_OR_RETURN(int code, program->Wait(deadline));
  return Finished{code, program->output()};
}

}  // namespace ferrite
