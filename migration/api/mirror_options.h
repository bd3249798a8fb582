// How a disk is mirrored, and how far it is.
#ifndef FERRITE_MIGRATION_API_MIRROR_OPTIONS_H_
#define FERRITE_MIGRATION_API_MIRROR_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ferrite::migration {

enum class CopyMode {
  kBackground,     // what the guest writes is copied some time later
  kWriteBlocking,  // a guest's write is answered when both sides have it
};

// What an error of a read of the source, or of a write to the target, leads to. QEMU's words (BlockdevOnError).
enum class ErrorPolicy {
  kReport,  // the mirror fails; the machine is unharmed
  kIgnore,  // the chunk stays dirty and is tried again, later each time
  kStop,    // the mirror waits, with the cause named, until Resume()
  kEnospc,  // kStop when there is no room, kReport for the rest
};

enum class MirrorState {
  kRunning,     // the first pass, or what the guest wrote meanwhile
  kReady,       // what is left fits the downtime limit, and none of it failed the last time; it goes on
  kPaused,      // by Pause(), or by an error (MirrorFigures::cause)
  kCompleting,  // the guest's writes stand still, the rest is copied and flushed
  kCompleted,   // both are equal, and the target is flushed
  kCancelled,
  kFailed,
};

// "background", "write-blocking"; "report", "ignore", "stop", "enospc"; "running", "ready" ...
absl::string_view CopyModeName(CopyMode mode);
absl::string_view ErrorPolicyName(ErrorPolicy policy);
absl::string_view MirrorStateName(MirrorState state);

// It is over.
bool IsFinal(MirrorState state);

inline constexpr uint32_t kLeastGranularity = 4096;
inline constexpr uint32_t kMostGranularity = 64 << 20;

struct MirrorOptions {
  uint32_t granularity = 64 << 10;   // bytes of a chunk: a power of two, 4 KiB to 64 MiB
  uint64_t buffer_bytes = 16 << 20;  // 1 MiB to 1 GiB, and at least one chunk and one cluster of the target
  uint32_t in_flight = 16;           // operations at a time, 1 to 256
  CopyMode copy_mode = CopyMode::kBackground;
  uint64_t max_bandwidth = 0;  // bytes/s; 0: no limit
  ErrorPolicy on_source_error = ErrorPolicy::kReport;
  ErrorPolicy on_target_error = ErrorPolicy::kReport;
  absl::Duration downtime_limit = absl::Milliseconds(50);
  // Background copying that does not converge turns to write-blocking by itself.
  bool turn_write_blocking = true;
  // The target reads as zero where nothing was written (it was made just now): zeroes need not be written to it.
  bool target_is_zero = false;
};

// INVALID_ARGUMENT that names the option, its value and what it may be.
absl::Status CheckMirrorOptions(const MirrorOptions& options);

// Bytes are of the disk, but for target_bytes.
struct MirrorFigures {
  MirrorState state = MirrorState::kRunning;
  CopyMode copy_mode = CopyMode::kBackground;  // as it is now
  uint64_t total_bytes = 0;                    // the disk's size
  uint64_t done_bytes = 0;                     // the same at both sides now: total less dirty less in flight
  uint64_t dirty_bytes = 0;                    // still to be copied
  uint64_t in_flight_bytes = 0;
  uint64_t copied_bytes = 0;  // written to the target in all
  uint64_t zero_bytes = 0;    // of these, as zeroes
  uint64_t again_bytes = 0;   // copied more than once
  double rate = 0;            // copied bytes/s, of the last second or so
  double dirty_rate = 0;      // bytes/s that become dirty
  absl::Duration drain_time;  // what is dirty or in flight is copied in that time, at measured rates; infinite: unknown
  bool fits_downtime = false;  // within the downtime limit, and so much was copied before, and nothing of it fails
  uint64_t held_writes = 0;    // guest's writes whose answer waited for the target
  uint64_t errors = 0;         // of both sides, also those that were ignored
  absl::Duration took;         // since the start
  absl::Duration ready_after;  // from the start to ready; 0: not yet
  std::string cause;           // why it is paused or failed, or the ignored error of what is tried again; else ""
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MIRROR_OPTIONS_H_
