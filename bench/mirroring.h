// Who copies a disk, and a monitor that does: ferrite's, or QEMU's with the same payload guest.
#ifndef FERRITE_BENCH_MIRRORING_H_
#define FERRITE_BENCH_MIRRORING_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/monitor_process.h"

namespace ferrite {

struct MirrorContender {
  enum class Who {
    kFerrite,
    kQemu,         // its job "mirror"
    kQemuImg,      // qemu-img convert -n -W
    kBareCopying,  // CopyBarely()
  };
  Who who = Who::kFerrite;
  bool write_blocking = false;
  // Of QEMU.
  std::string aio = "threads";  // or native, io_uring
  bool direct = false;          // O_DIRECT, at both sides: cache=none
  bool detect_zeroes = true;    // at the target; qemu-img: what the target does not have is zero
  bool iothread = true;         // the disk has a thread of its own

  bool is_qemu() const { return who == Who::kQemu; }
  std::string Name() const;
};

// What is the same for all monitors.
struct MirroringSetup {
  std::string directory;  // of this monitor's own, empty
  std::string source;
  uint64_t bytes = 0;   // of the source
  std::string payload;  // empty: no guest, and no KVM
  std::string command_line;
  bool is_paused = false;  // the guest does not run
  uint64_t memory_mib = 64;
  uint32_t granularity = 64 << 10;
  uint64_t buffer_bytes = 16 << 20;
  std::string qemu;                           // the program
  std::string qemu_storage;                   // qemu-storage-daemon, where there is no KVM
  std::vector<std::string> mirror_arguments;  // more of `ferrite mirror`
};

// One thread. What it started ends with it.
class Mirroring {
 public:
  // Of ferrite or QEMU.
  static std::unique_ptr<Mirroring> Make(const MirrorContender& contender, const MirroringSetup& setup);
  Mirroring(const MirrorContender& contender, const MirroringSetup& setup) : contender_(contender), setup_(setup) {}
  virtual ~Mirroring() = default;

  // Returns when it can mirror; a guest that runs has said "ready".
  virtual absl::Status Start() = 0;
  // Makes the file `target` and mirrors to it; returns when the machine goes on with it. Figures: total_ms (the whole
  // of it), ready_ms, and where the account has it copied_mib.
  virtual absl::StatusOr<nlohmann::json> Mirror(const std::string& target) = 0;
  // Seconds of processor time so far of all that mirrors, without the vCPU's.
  virtual absl::StatusOr<double> CpuSeconds() const = 0;

  // The guest's console.
  MonitorProcess& guest() { return *process_; }

 protected:
  static constexpr absl::Duration kLimit = absl::Seconds(180);

  const MirrorContender contender_;
  const MirroringSetup setup_;
  std::unique_ptr<MonitorProcess> process_;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_MIRRORING_H_
