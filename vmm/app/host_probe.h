// What `ferrite doctor` finds out about the host's memory, I/O and limits.
#ifndef FERRITE_VMM_APP_HOST_PROBE_H_
#define FERRITE_VMM_APP_HOST_PROBE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/control_group.h"
#include "vmm/app/doctor.h"

namespace ferrite {

std::vector<Finding> ProbeMemory();
// Disks, network, and the kernel's means to fence the monitor in.
std::vector<Finding> ProbeIo();
std::vector<Finding> ProbeLimits();

// io_uring_setup(2) works (0), or says this errno value.
Finding IoUringFinding(int error);

// What the control groups of this process allow; absent: no limit.
Finding GroupMemoryFinding(const std::optional<GroupLimit>& limit);
Finding GroupHugePagesFinding(const std::string& name, uint64_t page_bytes, const std::optional<GroupLimit>& limit);

// The first line of a file of /proc or /sys; absent when it cannot be read.
std::optional<std::string> ReadFirstLine(const std::string& path);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_HOST_PROBE_H_
