// Threads of tests and benchmarks, which cannot go on without them.
#ifndef FERRITE_TESTS_FAKES_TEST_THREAD_H_
#define FERRITE_TESTS_FAKES_TEST_THREAD_H_

#include <functional>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/thread.h"

namespace ferrite {

// Whether nothing is refused to the calling thread just now (tests/fakes/scarcity.h).
inline thread_local bool has_plenty = false;

// While it lives, nothing is refused to this thread: what it does is the test's own.
class Plenty {
 public:
  Plenty() : before_(std::exchange(has_plenty, true)) {}
  ~Plenty() { has_plenty = before_; }
  Plenty(const Plenty&) = delete;
  Plenty& operator=(const Plenty&) = delete;

 private:
  const bool before_;
};

inline Thread StartOrDie(std::string name, std::function<void()> body) {
  const Plenty plenty;
  absl::StatusOr<Thread> thread = Thread::Start(std::move(name), std::move(body));
  FERRITE_CHECK(thread.ok());
  return *std::move(thread);
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_TEST_THREAD_H_
