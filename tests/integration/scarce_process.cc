#include "tests/integration/scarce_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <new>

#include "tests/fakes/scarcity.h"

namespace ferrite {
namespace {

static_assert(kBecomeScarce == SIGUSR1 && kHavePlenty == SIGUSR2);

ScarceProcess* process = nullptr;
alignas(Scarcity) char storage[sizeof(Scarcity)];
Scarcity* scarcity = nullptr;

// Async-signal-safe: of memory a Scarcity is a few numbers.
void OnSignal(int signal) {
  if (signal == kBecomeScarce) {
    scarcity =
        new (storage) Scarcity(Scarce::kMemory, process->nth, process->all ? Refusals::kAllFromThere : Refusals::kOne);
    process->is_scarce = true;
  } else if (scarcity != nullptr) {
    scarcity->End();
    process->refused = scarcity->refused();
    process->has_plenty = true;
  }
}

// Before the program cleans its environment.
const bool kReady = [] {
  const char* const path = getenv(kScarceProcess);
  if (path == nullptr) {
    return false;
  }
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  void* const memory = mmap(nullptr, sizeof(ScarceProcess), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  (void)close(fd);
  if (memory == MAP_FAILED) {
    _exit(125);
  }
  process = static_cast<ScarceProcess*>(memory);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  return sigaction(kBecomeScarce, &action, nullptr) == 0 && sigaction(kHavePlenty, &action, nullptr) == 0;
}();

}  // namespace
}  // namespace ferrite
