// What a machine does for a move, at either end of it.
#ifndef FERRITE_VMM_MACHINE_MOVABLE_MACHINE_H_
#define FERRITE_VMM_MACHINE_MOVABLE_MACHINE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "devices/balloon/balloon_inhibitor.h"
#include "memory/page_bitmap.h"
#include "proto/machine.capnp.h"

namespace ferrite {

// The other side of Machine. Threads: as Machine says.
class MovableMachine {
 public:
  // Dirty tracking. After StartDirtyTracking() every page counts as written; CollectDirty() adds the pages
  // of memory().regions()[region] that vCPUs and the monitor wrote since the last collection of that region to `dirty`
  // (of its size) and forgets them; other regions are not touched. A page that is written after the call returned is in
  // the next collection; what is collected while the machine is paused is complete. One thread at a time calls the
  // three.
  virtual absl::Status StartDirtyTracking() = 0;
  virtual absl::Status CollectDirty(size_t region, PageBitmap& dirty) = 0;
  virtual absl::Status StopDirtyTracking() = 0;

  // Describe() writes what another monitor needs to make the same machine; any state but stopped.
  virtual absl::Status Describe(state::MachineDescription::Builder out) = 0;
  // Keeps the guest from running: running → paused, created and paused stay; from when it returned Resume() and Reset()
  // are refused with `why`, until EndHold(), which starts nothing. Returns whether the guest ran.
  virtual absl::StatusOr<bool> Hold(std::string why) = 0;
  virtual void EndHold() = 0;
  // A paused machine that came here by a move: ends its hold, and its devices are told when it is resumed first, which
  // this does with `run`.
  virtual absl::Status Arrive(bool run) = 0;
  // As Stop(), when the guest runs elsewhere now: kMoved, with `where` as the details.
  virtual void Leave(std::string where) = 0;
  // All that the guest wrote is on the disks and their locks are given up, for good or until the same files are opened
  // and locked again. Not released while the machine runs, not acquired when it is stopped. Both go on to the last disk
  // and return the first error. A disk that is as asked for already is OK. Those with the ids `kept` stay as they are.
  virtual absl::Status ReleaseDisks(std::span<const std::string> kept) = 0;
  virtual absl::Status AcquireDisks() = 0;
  // Lets each vCPU run only (100 - percent) of the time, 0 to 99, in slices of 10 ms.
  virtual absl::Status SetThrottle(int percent) = 0;
  // Created only, and it stays so: how long it takes to load the state of a machine like this one.
  virtual absl::StatusOr<absl::Duration> MeasureLoad() = 0;
  // The vCPU that runs on the thread with this id. Never waits.
  virtual std::optional<uint32_t> VcpuOfThread(pid_t thread) const = 0;
  virtual std::vector<pid_t> VcpuThreads() const = 0;
  // How long the vCPU that waited longest for a processor of the host did so when it was last to run; so far, where it
  // still waits.
  virtual absl::Duration EntryWait() const = 0;

  // Until the token goes, which the machine outlives, no ballooning (R8). A machine without a balloon has none anyway.
  virtual BalloonInhibitor::Token InhibitBalloon(std::string why) = 0;
  // Adds the pages of memory().regions()[region] whose content the guest does not need now.
  virtual void AddUnneededPages(size_t region, PageBitmap& into) = 0;

 protected:
  ~MovableMachine() = default;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MOVABLE_MACHINE_H_
