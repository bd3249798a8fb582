// The program `scarce_ferrite`: ferrite, which is refused its n-th allocation when the test says so.
#ifndef FERRITE_TESTS_INTEGRATION_SCARCE_PROCESS_H_
#define FERRITE_TESTS_INTEGRATION_SCARCE_PROCESS_H_

#include <atomic>
#include <cstdint>

namespace ferrite {

// The variable of the environment with the path of a file that has a ScarceProcess.
inline constexpr char kScarceProcess[] = "FERRITE_TEST_SCARCE_PROCESS";

// Signals that the program takes: from the first on the `nth` allocation of all its threads is refused, from the
// second on none.
inline constexpr int kBecomeScarce = 10;  // SIGUSR1
inline constexpr int kHavePlenty = 12;    // SIGUSR2

// In memory that the test and the program share.
struct ScarceProcess {
  uint64_t nth = 1;
  bool all = false;  // from the n-th on
  std::atomic<bool> is_scarce{false};
  std::atomic<bool> has_plenty{false};
  std::atomic<uint64_t> refused{0};
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_INTEGRATION_SCARCE_PROCESS_H_
