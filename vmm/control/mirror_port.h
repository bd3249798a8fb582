// What the control server needs to mirror its machine's disks.
#ifndef FERRITE_VMM_CONTROL_MIRROR_PORT_H_
#define FERRITE_VMM_CONTROL_MIRROR_PORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/api/mirror_options.h"

namespace ferrite {

struct MirrorRequest {
  std::string disk;            // its id
  std::string target;          // as MirrorTarget reads it
  bool existing = false;       // the target is there already
  bool auto_complete = false;  // as Complete(), as soon as it is ready
  migration::MirrorOptions options;
};

// What became of the target.
enum class MirrorEnd {
  kLeft,     // it was there before, and is no whole copy
  kRemoved,  // it was made for this, and is gone
  kKept,     // a whole copy of an instant; the machine stays with the source
  kDisk,     // the machine's disk from then on
};

struct MirrorStatus {
  uint64_t number = 0;  // of this monitor's mirrors, from 1; 0: there was none
  std::string disk;
  std::string target;
  std::string what;  // MirrorTarget::Describe()
  bool auto_complete = false;
  migration::MirrorFigures figures;
  bool over = false;
  // When it is over.
  absl::Status result;
  MirrorEnd end = MirrorEnd::kLeft;
  absl::Duration standstill;  // how long the disk's requests waited for the end
};

// Threads: any. None of them waits for a disk or a server.
class MirrorPort {
 public:
  virtual ~MirrorPort() = default;

  // The result of what was asked for: called once, on any thread, also before the call returns. It waits for nothing,
  // and calls no mirror.
  using Done = std::function<void(const absl::Status& result)>;

  // `started` is told its number when it has begun, as Done; of a target that does not answer within some 10 s that it
  // is refused. From this call on it counts for AllowsMove() and for what is asked of it. NOT_FOUND for the disk;
  // FAILED_PRECONDITION when one of it is on, or the machine has stopped; else MirrorTarget::Open()'s and
  // Mirror::Create()'s.
  using Started = std::function<void(const absl::StatusOr<uint64_t>& number)>;
  virtual void Start(const MirrorRequest& request, Started started) = 0;
  // Each disk's last one that began, in the order of their numbers.
  virtual std::vector<MirrorStatus> List() const = 0;
  // A disk's last one that began; number 0 when there was none. NOT_FOUND for the disk.
  virtual absl::StatusOr<MirrorStatus> Status(absl::string_view disk) const = 0;

  // These are for one that is on: else FAILED_PRECONDITION. They do not wait: `done` tells how it ended. One after the
  // other is done, but for the first part of an end, in which the guest works and all others may be asked for.
  //
  // Of one that is ready: the machine goes on with the target when it is done, or stays, and the mirror goes on. What
  // is left is copied while the guest works, until it fits the downtime limit; DEADLINE_EXCEEDED where it gets no less,
  // or is not copied during the standstill. A pause ends it.
  virtual void Complete(absl::string_view disk, Done done) = 0;
  // It is over when it is done. `keep_copy`, of one that is ready: the target is a whole copy of that instant, as
  // Complete(); on an error the mirror goes on.
  virtual void Cancel(absl::string_view disk, bool keep_copy, Done done) = 0;
  virtual void Pause(absl::string_view disk, Done done) = 0;
  virtual void Resume(absl::string_view disk, Done done) = 0;
  virtual void SetMaxBandwidth(absl::string_view disk, uint64_t bytes_per_second, Done done) = 0;

  // FAILED_PRECONDITION that names a mirror which is on: the machine cannot move.
  virtual absl::Status AllowsMove() const = 0;
  // The machine ends: what waits for a target here does not any more, and no mirror begins.
  virtual void BeginEnd() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MIRROR_PORT_H_
