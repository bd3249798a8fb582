// What a move is asked for.
#ifndef FERRITE_MIGRATION_API_MOVE_OPTIONS_H_
#define FERRITE_MIGRATION_API_MOVE_OPTIONS_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "migration/api/rdma_options.h"

namespace ferrite::migration {

enum class MoveMode {
  kAuto,      // "auto": pre-copy that turns into post-copy when the rounds stop converging
  kPrecopy,   // "precopy"
  kPostcopy,  // "postcopy": no rounds at all
};

enum class OnTimeout { kCancel, kPostcopy };

// What becomes of parts that can be mirrored: disks.
enum class DiskMoves {
  kAuto,    // "auto": those are copied that the destination has a place for; both sides reach the others
  kShared,  // "shared": none is
  kMirror,  // "mirror": all are, or the move fails
};

// Each takes a thread and memory at either end, whether it helps or not: no more of them are opened to see.
inline constexpr int kMostCountedChannels = 8;
// How many are opened where those are used that help: each takes a processor, of those that the source has.
constexpr int MostChannelsFor(int processors) { return std::clamp(processors, 1, kMostCountedChannels); }

struct MoveOptions {
  MoveMode mode = MoveMode::kAuto;
  absl::Duration downtime_limit = absl::Milliseconds(50);
  uint64_t max_bandwidth = 0;                         // bytes/s, 0: no limit
  uint64_t max_postcopy_bandwidth = 0;                // likewise; never holds back a page that was asked for
  int channels = 1;                                   // page connections, 1 to 16
  bool count_channels = false;                        // the rounds go over as many of them as help, by what is measured
  absl::Duration timeout = absl::InfiniteDuration();  // of the rounds
  OnTimeout on_timeout = OnTimeout::kCancel;
  DiskMoves disks = DiskMoves::kAuto;
  absl::Duration connect_limit = absl::Seconds(10);
  absl::Duration silence = absl::Seconds(10);  // after which the other side counts as gone
  // How long the destination may take for a step while it is greeted and builds the machine, and be silent meanwhile.
  absl::Duration patience = absl::Seconds(60);
  // How long the source tries to find the destination again after a connection was lost, while the guest is copied or
  // behind GRANT. Zero: not at all, before somebody asks for it.
  absl::Duration recover_for = absl::Seconds(30);
  RdmaOptions rdma;  // of the source, where the channels are over RDMA
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MOVE_OPTIONS_H_
