#include "vmm/base/thread.h"

#include <pthread.h>

#include <csignal>
#include <utility>

namespace ferrite {
namespace {

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

Thread::Thread(std::string name, std::function<void()> body) {
  // The mask is inherited, so it is set before the thread exists: no signal can reach it unmasked.
  const sigset_t blocked = AllButFaults();
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  thread_ = std::thread([name = std::move(name), body = std::move(body)] {
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    body();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Thread& Thread::operator=(Thread&& other) noexcept {
  Join();
  thread_ = std::move(other.thread_);
  return *this;
}

void Thread::Join() {
  if (thread_.joinable()) {
    thread_.join();
  }
}

}  // namespace ferrite
