// How long a monitor takes from its start to its guest, and what memory it takes beside that: ferrite's and QEMU's
// microvm machine, with the same guest.
#ifndef FERRITE_BENCH_START_ROW_H_
#define FERRITE_BENCH_START_ROW_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace ferrite {

inline constexpr uint64_t kStartMemoryMib = 128;

// One start: start_ms (to the guest's first line of output, some hundred instructions after its first), own_mib (pages
// that no other process maps, without the guest's memory), own_changed_mib (of these, what no second monitor of the
// host shares: without the pages of the program and its libraries as they are in their files), and of ferrite
// first_entry_ms (to the time when it entered the guest, by its account).
absl::StatusOr<nlohmann::json> MeasureFerriteStart(const std::vector<std::string>& run_arguments);
absl::StatusOr<nlohmann::json> MeasureQemuStart(const std::string& qemu);

}  // namespace ferrite

#endif  // FERRITE_BENCH_START_ROW_H_
