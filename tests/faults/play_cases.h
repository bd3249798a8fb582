// Cases of faults, by the number and the seed that the environment has (`./dev faults`).
#ifndef FERRITE_TESTS_FAULTS_PLAY_CASES_H_
#define FERRITE_TESTS_FAULTS_PLAY_CASES_H_

#include <gtest/gtest.h>
#include <sys/random.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "tests/fakes/at_once.h"
#include "tests/fakes/test_place.h"

namespace ferrite {

inline uint64_t NumberInEnvironment(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  uint64_t number = otherwise;
  if (text != nullptr && !absl::SimpleAtoi(text, &number)) {
    ADD_FAILURE() << variable << ": " << text << " is no number";
  }
  return number;
}

// Plays FERRITE_FAULTS cases (`cases` where it is not set), each of a seed of its own, from FERRITE_FAULT_SEED on, and
// says how many met their fault, of each kind. `command` and the seed play one again. A Case is made of its seed, has
// Play(), and says by struck() whether its fault() came before the move was over.
template <typename Case>
void PlayCases(uint64_t cases, const char* command) {
  uint32_t drawn = 0;
  ASSERT_EQ(getrandom(&drawn, sizeof(drawn), 0), static_cast<ssize_t>(sizeof(drawn)));
  const uint64_t first = NumberInEnvironment("FERRITE_FAULT_SEED", drawn);
  cases = NumberInEnvironment("FERRITE_FAULTS", cases);
  std::printf("%llu cases from seed %llu\n", static_cast<unsigned long long>(cases),
              static_cast<unsigned long long>(first));
  absl::Mutex mutex;
  std::map<std::string, int> played;
  uint64_t struck = 0;
  const auto play = [&](uint64_t index) {
    if (testing::Test::HasFailure()) {
      return;
    }
    const uint64_t seed = first + index;
    Case one(seed);
    SCOPED_TRACE(absl::StrCat(one.Words(), ": ", command, " 1 ", seed));
    one.Play();
    if (one.struck()) {
      const absl::MutexLock lock(&mutex);
      ++struck;
      ++played[one.fault()];
    }
  };
  // Guests that poll leave each other no time of an emulated processor.
  ForEachAtOnce(cases, play, ForPlace(6, 1));
  // One or two alone may be late.
  EXPECT_TRUE(cases < 3 || struck * 3 >= cases) << "faults must come while the moves are on";
  std::printf("%6llu met their fault:\n", static_cast<unsigned long long>(struck));
  for (const auto& [name, count] : played) {
    std::printf("%6d %s\n", count, name.c_str());
  }
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAULTS_PLAY_CASES_H_
