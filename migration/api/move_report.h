// Where a move stands, and what it cost.
#ifndef FERRITE_MIGRATION_API_MOVE_REPORT_H_
#define FERRITE_MIGRATION_API_MOVE_REPORT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "migration/api/move_state.h"

namespace ferrite::migration {

// What a part beside memory costs: a disk. Told at the source.
struct PartFigures {
  static constexpr size_t kMost = 64;  // of how many it is told

  std::string name;
  uint64_t bytes = 0;        // how large it is
  uint64_t data_bytes = 0;   // that were sent
  uint64_t zero_bytes = 0;   // that were told to be zero, not sent: holes among them
  uint64_t again_bytes = 0;  // of both: not for the first time
  // Of one that is mirrored: when it was ready, since the move began. Zero before.
  absl::Duration ready_after;
  bool write_blocking = false;  // likewise: its copying did not converge otherwise
  bool shared = false;          // it was not copied: both sides reach it

  bool operator==(const PartFigures&) const = default;
};

struct MoveProgress {
  MoveState state = MoveState::kNone;
  uint32_t round = 0;
  uint64_t sent_bytes = 0;
  uint64_t remaining_bytes = 0;
  double rate = 0;        // bytes/s, of the last round
  double dirty_rate = 0;  // likewise
  absl::Duration expected_downtime;
  int throttle_percent = 0;
  uint64_t faults = 0;  // requests that came so far
  // Since GRANT went out, or at a destination since the guest runs there; zero before.
  absl::Duration granted_for;
  std::vector<PartFigures> parts;  // what moves beside memory
};

// How long threads waited for pages, as the destination measured it.
struct WaitingFigures {
  static constexpr uint32_t kMonitor = 0xffffffff;  // the monitor's own threads
  uint32_t vcpu = 0;
  uint64_t count = 0;
  absl::Duration p50;
  absl::Duration p99;
  absl::Duration max;
  absl::Duration sum;

  bool operator==(const WaitingFigures&) const = default;
};

struct MoveReport {
  bool postcopy = false;
  absl::Duration total;
  // From the order to stop to the destination's word that the guest runs; the parts add up to it.
  absl::Duration downtime;
  absl::Duration stop;            // until nothing writes guest memory
  absl::Duration last_pages;      // sending what was dirty (pre-copy), telling what is out of date (post-copy)
  absl::Duration state;           // saving devices and vCPUs, releasing disks
  absl::Duration send;            // the package's way, as far as the destination's load does not account for it
  absl::Duration load;            // measured at the destination
  absl::Duration run;             // GRANT and its answer
  absl::Duration downtime_limit;  // what was asked for
  // How long who makes the guest stand still, and run again, waited for one of the host's processors meanwhile (on
  // Linux the run delay of schedstat). The first two are in the parts above.
  absl::Duration source_wait;       // the move's thread, and the vCPU that waited longest
  absl::Duration destination_wait;  // the move's thread
  absl::Duration entry_wait;        // the vCPU that waited longest there until it ran
  uint32_t rounds = 0;
  uint64_t data_pages = 0;
  uint64_t zero_pages = 0;
  uint64_t skipped_pages = 0;  // never touched, or in the balloon: not read
  uint64_t resent_pages = 0;   // sent again because they were dirtied, or lost with a channel that broke alone
  uint64_t bytes = 0;
  uint64_t faults = 0;        // demand faults that went to the source
  uint64_t minor_faults = 0;  // on pages that had arrived
  uint64_t requested_pages = 0;
  uint64_t prefetched_pages = 0;
  uint64_t prefetch_hits = 0;  // requests that came where a window had ended: its pages had been used
  uint64_t duplicate_pages = 0;
  // By the destination, on their way from the connection to the guest.
  uint64_t copied_pages = 0;
  uint64_t moved_pages = 0;  // that changed hands with a block of 2 MiB, after the switchover; told at the end
  // Of the guest's memory on this side, what was on huge pages: at the source when the move began, at the destination
  // when what had come in pieces was made huge again.
  uint64_t huge_bytes = 0;
  uint64_t compacted_blocks = 0;  // of 2 MiB, that were made huge behind the move
  // Host pages of the guest that the hardware had lost (R9), as guest-physical addresses: how many, and the first of
  // them. At the source those that went as lost, at the destination those that came so.
  static constexpr size_t kMostLostAt = 64;
  uint64_t lost_pages = 0;
  std::vector<uint64_t> lost_at;
  uint32_t recoveries = 0;  // how often the connection was lost, and found again
  // Of the source: page channels that the rounds of memory went over, of those that were open; MoveOptions::
  // count_channels, and the bytes/s that were measured then, over one, two, and so on.
  uint32_t channels = 0;
  uint32_t open_channels = 0;
  bool counted_channels = false;
  std::vector<uint64_t> channel_rates;
  uint32_t broken_channels = 0;  // page channels that broke behind GRANT while others lived, which went on
  std::vector<WaitingFigures> waiting;
  std::vector<PartFigures> parts;  // what moves beside memory
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MOVE_REPORT_H_
