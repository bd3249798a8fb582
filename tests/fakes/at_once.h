// Cases that mostly wait, several at a time.
#ifndef FERRITE_TESTS_FAKES_AT_ONCE_H_
#define FERRITE_TESTS_FAKES_AT_ONCE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {

// Calls `play` with each of [0, count), on so many threads. Returns when all are done.
inline void ForEachAtOnce(uint64_t count, const std::function<void(uint64_t)>& play, int most = 6) {
  std::atomic<uint64_t> next = 0;
  std::vector<Thread> threads;
  for (int i = 0; i < most; ++i) {
    threads.push_back(StartOrDie(absl::StrCat("test-case-", i), [&] {
      for (uint64_t at = next++; at < count; at = next++) {
        play(at);
      }
    }));
  }
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_AT_ONCE_H_
