#include "base/thread.h"

#include <cerrno>
#include <csignal>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

struct Work {
  std::string name;
  std::function<void()> body;
};

void* Run(void* argument) {
  const std::unique_ptr<Work> work(static_cast<Work*>(argument));
  pthread_setname_np(pthread_self(), work->name.c_str());
  work->body();
  return nullptr;
}

// Process signals (SIGTERM, SIGINT ...) belong to the main thread; a fault's signals must reach the faulting thread.
sigset_t AllButFaults() {
  sigset_t set;
  sigfillset(&set);
  for (int signal : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGABRT, SIGTRAP}) {
    sigdelset(&set, signal);
  }
  return set;
}

}  // namespace

absl::StatusOr<Thread> Thread::Start(std::string name, std::function<void()> body) {
  auto work = std::make_unique<Work>(Work{.name = name.substr(0, 15), .body = std::move(body)});
  // The mask is inherited, so it is set before the thread exists: no signal can reach it unmasked.
  const sigset_t blocked = AllButFaults();
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  pthread_t thread;
  const int error = pthread_create(&thread, nullptr, Run, work.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error == 0) {
    (void)work.release();
    return Thread(thread);
  }
  const absl::Status status = ErrnoStatus(error, absl::StrCat("make the thread ", name));
  if (error != EAGAIN && error != ENOMEM) {
    return status;
  }
  // pthread_create(3): which of them it is, it does not say. No connection is lost by it, so it is not UNAVAILABLE.
  return absl::ResourceExhaustedError(absl::StrCat(status.message(),
                                                   ": too many tasks (pids.max of the control groups, `ulimit -u`, "
                                                   "/proc/sys/kernel/threads-max), or no memory for its stack"));
}

Thread::Thread(Thread&& other) noexcept : thread_(std::exchange(other.thread_, std::nullopt)) {}

Thread& Thread::operator=(Thread&& other) noexcept {
  if (this != &other) {
    Join();
    thread_ = std::exchange(other.thread_, std::nullopt);
  }
  return *this;
}

void Thread::Join() {
  if (thread_.has_value()) {
    // It fails only for a thread that joins itself.
    FERRITE_CHECK(pthread_join(*thread_, nullptr) == 0);
    thread_.reset();
  }
}

void Thread::Detach() {
  if (thread_.has_value()) {
    FERRITE_CHECK(pthread_detach(*thread_) == 0);
    thread_.reset();
  }
}

}  // namespace ferrite
