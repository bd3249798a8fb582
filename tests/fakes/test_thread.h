// Threads of tests and benchmarks, which cannot go on without them.
#ifndef FERRITE_TESTS_FAKES_TEST_THREAD_H_
#define FERRITE_TESTS_FAKES_TEST_THREAD_H_

#include <functional>
#include <string>
#include <utility>

#include "vmm/base/status.h"
#include "vmm/base/thread.h"

namespace ferrite {

// Whether the calling thread is making one, which no test means to refuse (tests/fakes/scarcity.h).
inline thread_local bool making_test_thread = false;

inline Thread StartOrDie(std::string name, std::function<void()> body) {
  making_test_thread = true;
  absl::StatusOr<Thread> thread = Thread::Start(std::move(name), std::move(body));
  making_test_thread = false;
  FERRITE_CHECK(thread.ok());
  return *std::move(thread);
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_TEST_THREAD_H_
