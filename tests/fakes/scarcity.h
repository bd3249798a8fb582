// A host that runs out of threads, memory or descriptors at the n-th wish. What links this has pthread_create() and
// operator new of its own, which ask here first.
#ifndef FERRITE_TESTS_FAKES_SCARCITY_H_
#define FERRITE_TESTS_FAKES_SCARCITY_H_

#include <sys/resource.h>

#include <cstdint>

#include "tests/fakes/test_thread.h"

namespace ferrite {

enum class Scarce {
  kThreads,
  kMemory,       // of operator new, and what asks for aligned memory
  kDescriptors,  // RLIMIT_NOFILE
};

enum class Refusals {
  kOne,
  kAllFromThere,  // until the object goes
};

// While it lives, the `nth` (from 1) thread or allocation that this process wants is refused, but for those of a thread
// that has Plenty. Of descriptors there are `nth` - 1 more, whoever wants them. One at a time.
class Scarcity {
 public:
  Scarcity(Scarce what, uint64_t nth, Refusals refusals = Refusals::kOne);
  ~Scarcity() { End(); }
  Scarcity(const Scarcity&) = delete;
  Scarcity& operator=(const Scarcity&) = delete;

  // There is plenty again. Any thread.
  void End();
  // How many were refused. Not known of descriptors.
  uint64_t refused() const;

 private:
  const Scarce what_;
  rlimit before_{};
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_SCARCITY_H_
