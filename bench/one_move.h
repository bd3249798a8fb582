// One move of one guest, from the start of its first monitor until the guest has checked its memory in the second, and
// all that is measured meanwhile.
#ifndef FERRITE_BENCH_ONE_MOVE_H_
#define FERRITE_BENCH_ONE_MOVE_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/guest_pair.h"

namespace ferrite {

// What the guest does (tests/guest/dirty.cc).
struct GuestTask {
  std::string name;     // "random"
  std::string options;  // of its command line
  bool writes = true;
  bool waits = false;   // it takes the time of each write
  bool paused = false;  // it stands still from before the move until after it
};

// What is the same for all moves of a run.
struct MoveInputs {
  uint64_t memory_mib = 1024;
  uint64_t set_mib = 768;
  absl::Duration quiet = absl::Milliseconds(500);    // how long the guest is watched before the move, and after it
  absl::Duration settle = absl::Milliseconds(2000);  // between the move and the watch after it
  std::string qemu;
  std::vector<std::string> run_arguments;
  std::vector<std::string> move_arguments;
};

// The figures by name (docs/performance.md says what each is). An error, too, when the guest finds its memory wrong.
absl::StatusOr<nlohmann::json> MeasureMove(const MoveInputs& inputs, const GuestTask& task, SocketKind socket,
                                           absl::Duration downtime_limit, const Contender& contender);

}  // namespace ferrite

#endif  // FERRITE_BENCH_ONE_MOVE_H_
