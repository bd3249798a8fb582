// What the kernel says of a process that is measured from outside.
#ifndef FERRITE_BENCH_PROCESS_FIGURES_H_
#define FERRITE_BENCH_PROCESS_FIGURES_H_

#include <sys/types.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// Seconds of processor time so far, of all threads, those that ended too.
absl::StatusOr<double> CpuOfProcess(pid_t pid);

// Of the living ones whose names begin with `name`, of which there is one at least.
absl::StatusOr<double> CpuOfThreads(pid_t pid, absl::string_view name);

// MiB in huge pages of the mappings of at least a 64th of `memory_mib`, which are the guest's memory, in one or in
// pieces, and nothing else that has huge pages: anonymous ones, those of shared memory that are mapped as such, and
// hugetlb's.
absl::StatusOr<double> HugeMiB(pid_t pid, uint64_t memory_mib);

}  // namespace ferrite

#endif  // FERRITE_BENCH_PROCESS_FIGURES_H_
