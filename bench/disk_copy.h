// One copy of a disk by a contender, and what is measured of it.
#ifndef FERRITE_BENCH_DISK_COPY_H_
#define FERRITE_BENCH_DISK_COPY_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/mirror_image.h"
#include "bench/mirroring.h"

namespace ferrite {

struct CopyInputs {
  MirrorImage image;
  std::string directory;  // of the images; empty but for the source
  bool kvm = false;
  uint64_t rate = 2000;  // writes of 4 KiB a second
  absl::Duration before = absl::Seconds(2);
  uint32_t granularity = 64 << 10;
  uint64_t buffer_bytes = 16 << 20;
  std::string qemu;
  std::string qemu_img;
  std::string qemu_storage;
  std::vector<std::string> mirror_arguments;

  std::string Source() const { return directory + "/source.img"; }
  std::string Target() const { return directory + "/target.img"; }
};

// Of a guest that stands still, or none: total_ms, cpu_s, target_mib (what the copy takes of its file system), and
// where a monitor copies ready_ms and copied_mib. The copy is on the disk at its end, and looked at: an error where it
// is not as the source.
absl::StatusOr<nlohmann::json> MeasureIdleCopy(const CopyInputs& inputs, const MirrorContender& contender);

// Of a guest that writes. The same but for the look; and writes_before and writes_during (a second), of its writes
// before_p50_us, before_p99_us, before_late_p99_us (from when they were due), and during_... of the whole mirror.
absl::StatusOr<nlohmann::json> MeasureLoadedCopy(const CopyInputs& inputs, const MirrorContender& contender);

}  // namespace ferrite

#endif  // FERRITE_BENCH_DISK_COPY_H_
