// What a monitor takes of the host's memory beside its guest's RAM.
#ifndef FERRITE_BENCH_MEMORY_USE_H_
#define FERRITE_BENCH_MEMORY_USE_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace ferrite {

// /proc/PID/smaps of a monitor, summed up; bytes. All but `guest_resident` leave the guest's RAM out: the mappings of
// memfds "ferrite-..." (and for another monitor than ferrite, what ReadMemoryUse is told).
struct MemoryUse {
  uint64_t guest_resident = 0;
  uint64_t guest_huge = 0;    // of it, on transparent huge pages
  uint64_t resident = 0;      // all pages that are mapped, those of libraries that every process has included
  uint64_t proportional = 0;  // a page that n processes map counts as 1/n
  uint64_t own = 0;           // pages that no other process maps; the next four are what they are
  uint64_t program = 0;       // unchanged pages of the program's file
  uint64_t libraries = 0;     // unchanged pages of other files
  uint64_t kernel = 0;        // what the kernel maps for it: vCPUs' run pages, io_uring's rings
  uint64_t anonymous = 0;     // heap, stacks, relocated and changed data: what a second machine takes as well

  std::string Parts() const;
};

// `guest_bytes`: anonymous memory of this size, mapped at once or in pieces side by side, is the guest's RAM, too; 0:
// none is.
absl::StatusOr<MemoryUse> ReadMemoryUse(pid_t pid, uint64_t guest_bytes = 0);

// Memory of a ferrite monitor with a guest of 128 MiB, a vCPU, a balloon, a disk and random numbers, all of them at
// work (tests/guest/virtio.cc).
struct MonitorMemory {
  MemoryUse at_rest;         // the guest works, nobody has used the control socket
  MemoryUse in_commands;     // after info, pause, resume, balloon to 16 MiB and back; a watcher is still connected
  MemoryUse after_commands;  // the watcher has gone, too
};
absl::StatusOr<MonitorMemory> MeasureMonitorMemory();

inline constexpr double kMiBytes = 1 << 20;

}  // namespace ferrite

#endif  // FERRITE_BENCH_MEMORY_USE_H_
