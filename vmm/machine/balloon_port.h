// The balloon of a machine, for whoever sets and shows it.
#ifndef FERRITE_VMM_MACHINE_BALLOON_PORT_H_
#define FERRITE_VMM_MACHINE_BALLOON_PORT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/monotonic.h"

namespace ferrite {

struct BalloonFigures {
  uint64_t target_bytes = 0;     // guest memory that shall be given back to the host
  uint64_t actual_bytes = 0;     // guest memory that is
  uint64_t reclaimed_bytes = 0;  // given back since the start, by inflation and by reports of free pages
  // By name, as the guest's driver reported last, and when; empty when it has not.
  std::vector<std::pair<std::string, uint64_t>> statistics;
  MonotonicTime statistics_time = MonotonicTime::InfinitePast();
};

// Threads: any. No method waits for the guest.
class BalloonPort {
 public:
  virtual ~BalloonPort() = default;
  virtual BalloonFigures Figures() const = 0;
  // `bytes` is a multiple of 4096 and at most the guest's memory.
  virtual absl::Status SetTarget(uint64_t bytes) = 0;
  // Whether something is on that wants no ballooning, as a move (R8). May wait for a few milliseconds of work.
  virtual bool inhibited() const = 0;
  // Asks the guest for new statistics; an error when it has no driver that reports any.
  virtual absl::Status RequestStatistics() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_BALLOON_PORT_H_
