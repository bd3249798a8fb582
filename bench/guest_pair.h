// A payload guest that is to move, and the two monitors of one kind that it moves between: ferrite's or QEMU's. Both
// have the same guest image with the same command line, one vCPU, its console on their standard input and output.
#ifndef FERRITE_BENCH_GUEST_PAIR_H_
#define FERRITE_BENCH_GUEST_PAIR_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/monitor_process.h"
#include "bench/move_limits.h"

namespace ferrite {

enum class MoveWay {
  kPrecopy,
  kPostcopy,          // at once
  kPostcopyAfterOne,  // QEMU's only: after one round over memory
  kAuto,              // ferrite's only
};

// Who moves a guest, and how.
struct Contender {
  bool qemu = false;
  MoveWay way = MoveWay::kPrecopy;
  bool multifd = false;  // over two channels for pages: QEMU's "multifd", ferrite's --channels
  bool preempt = false;  // QEMU's "postcopy-preempt"
  bool tls = false;

  // "ferrite auto", "QEMU postcopy preempt".
  std::string Name() const;
};

// What is the same for all contenders.
struct PairSetup {
  uint64_t memory_mib = 0;
  std::string command_line;
  std::string directory;  // of this pair's own, empty
  SocketKind socket = SocketKind::kTcp;
  absl::Duration downtime_limit;
  std::string qemu;           // the program
  std::string tls_directory;  // certificates and keys, of whom uses TLS
  // More arguments of `ferrite run` and of `ferrite move`.
  std::vector<std::string> run_arguments;
  std::vector<std::string> move_arguments;
};

// One thread. The processes end with their owner.
class GuestPair {
 public:
  static std::unique_ptr<GuestPair> Make(const Contender& contender, const PairSetup& setup);
  virtual ~GuestPair() = default;

  // Returns when the guest has been entered, or soon will be.
  virtual absl::Status StartSource() = 0;
  // Returns when it can be moved there.
  virtual absl::Status StartDestination() = 0;
  // Returns when the destination has all of the guest. Figures: total_ms (of QEMU its own account; of ferrite the whole
  // command), account_total_ms and downtime_ms by the monitor's account, bytes sent, and what else the account has.
  virtual absl::StatusOr<nlohmann::json> Move() = 0;
  // After Move(): has the source's monitor end, which QEMU's does not by itself.
  virtual absl::Status EndSource() = 0;
  // Before Move() the source's guest stands still; after it the destination's goes on.
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // How the names of vCPUs' threads begin.
  virtual const char* vcpu_threads() const = 0;

  MonitorProcess& source() { return *source_; }
  MonitorProcess& destination() { return *destination_; }

 protected:
  static constexpr absl::Duration kLimit = absl::Seconds(120);

  explicit GuestPair(const PairSetup& setup) : setup_(setup) {}

  const PairSetup setup_;
  std::unique_ptr<MonitorProcess> source_;
  std::unique_ptr<MonitorProcess> destination_;
};

// The arguments of a QEMU for a payload guest: without what only moves need.
absl::StatusOr<std::vector<std::string>> QemuArguments(const std::string& qemu, const std::string& directory,
                                                       const std::string& payload, uint64_t memory_mib,
                                                       const std::string& command_line);

}  // namespace ferrite

#endif  // FERRITE_BENCH_GUEST_PAIR_H_
