// A payload guest that moves from monitor to monitor, both in one process: real machines, a real socket.
#ifndef FERRITE_TESTS_INTEGRATION_MOVING_PAYLOAD_H_
#define FERRITE_TESTS_INTEGRATION_MOVING_PAYLOAD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/session/destination.h"
#include "migration/session/source.h"
#include "tests/fakes/relay.h"
#include "tests/integration/payload_machine.h"
#include "vmm/move/arrival_options.h"

namespace ferrite {

struct MoveResult {
  absl::Status source;
  absl::Status destination;
  migration::MoveState source_state = migration::MoveState::kNone;
  migration::MoveState destination_state = migration::MoveState::kNone;
  migration::MoveReport report;
};

struct MoveTry {
  migration::MoveOptions options;
  absl::Duration hold_for = migration::ArrivalOptions().hold_for;  // at the destination
  bool tcp = false;
  // Through a relay, relay() during the move.
  bool relayed = false;
  // What the connections of either end are wrapped in; null: in nothing.
  std::shared_ptr<migration::StreamSecurity> source_security;
  std::shared_ptr<migration::StreamSecurity> destination_security;
  // Somebody between the two, who takes the guest himself and gives it on: calls `leave` with where he waits, which is
  // the source's move to there, and returns its result, or why the guest did not go on to `destination`.
  std::function<MoveResult(const migration::Address& destination,
                           const std::function<MoveResult(const migration::Address&)>& leave)>
      by_way_of;
  // Without a disk, or a kernel, of its own it names the source's.
  ArrivalOptions arrival;
  // Called on the source's thread as the move makes progress.
  std::function<void(migration::Source&, const migration::MoveProgress&)> during;
  // Called before anything arrives in the machine at the destination.
  std::function<void(Machine&)> built;
  // Changes what the source tells of its machine.
  std::function<void(state::MachineDescription::Builder)> on_describe;
  // Called while the machine stands still, before its state is saved: in the state `device`.
  std::function<void(migration::Source&)> on_save;
  // Called when the source has released its disks, and before it takes them back.
  std::function<void()> on_release;
  std::function<void()> on_take_back;
  // Called right before the guest is granted.
  std::function<void()> on_grant;
  // Changes the package.
  std::function<void(std::vector<uint8_t>&)> on_package;
};

// Threads: the test's.
class MovingPayload {
 public:
  static absl::StatusOr<std::unique_ptr<MovingPayload>> Run(absl::string_view program, MachineConfig config);
  ~MovingPayload();

  // Where the guest is now.
  PayloadMachine& here() { return *here_; }
  const std::string& directory() const { return directory_; }

  // Moves to a new monitor. When the guest has gone there, that is here() from now on and the other one is gone.
  MoveResult Move(const MoveTry& attempt);
  // Moves to somebody else's monitor: a move that is expected to fail. There is no word of the destination.
  MoveResult MoveTo(const migration::Address& address, const MoveTry& attempt);
  migration::Relay& relay() { return *relay_; }

 private:
  MovingPayload() = default;

  std::string directory_;
  std::unique_ptr<migration::Relay> relay_;
  std::unique_ptr<PayloadMachine> here_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_INTEGRATION_MOVING_PAYLOAD_H_
