#include "vmm/control/client_loop.h"

#include <mutex>

namespace ferrite {
namespace {

// Events of the loop between two looks at the clock: else one who sends without end keeps a deadline from passing.
constexpr kj::uint kEventsInARow = 64;

}  // namespace

std::shared_ptr<kj::AsyncIoContext> ThreadContext() {
  thread_local std::weak_ptr<kj::AsyncIoContext> context;
  std::shared_ptr<kj::AsyncIoContext> shared = context.lock();
  if (shared == nullptr) {
    // The lock is for the thread sanitizer: kj guards by itself what it makes once for all threads.
    static std::mutex setup;
    const std::lock_guard<std::mutex> lock(setup);
    shared = std::make_shared<kj::AsyncIoContext>(kj::setupAsyncIo());
    shared->waitScope.setBusyPollInterval(kEventsInARow);
    context = shared;
  }
  return shared;
}

}  // namespace ferrite
