// What a destination says to connections at its door.
#ifndef FERRITE_MIGRATION_SESSION_DOOR_H_
#define FERRITE_MIGRATION_SESSION_DOOR_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/api/host.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/lobby.h"
#include "migration/channel/stream.h"
#include "migration/protocol/preamble.h"

namespace ferrite::migration {

constexpr absl::string_view kBusy = "the destination is busy with another move";

// Tells whoever is behind a control connection why it is sent away, in a message that all versions have in common.
// Takes 100 ms at most.
void TurnAway(Stream& stream, absl::string_view why);

// The preamble of a connection; a source of a version that is not known here is told so.
absl::StatusOr<Preamble> ReadPreamble(Lobby::Arrival& arrival);

// Answers the door while nobody else does: sources of other moves hear at once that this destination is busy, and
// connections of the move `id` are put back into the lobby when the doorman goes. Threads: the lobby is the doorman's
// for as long as it lives.
class Doorman {
 public:
  static absl::StatusOr<std::unique_ptr<Doorman>> Create(const Host& host, Lobby& lobby, const MoveId& id,
                                                         DropLog& drops);
  ~Doorman();

 private:
  Doorman(const Host& host, Lobby& lobby, const MoveId& id, DropLog& drops, EventFd stop)
      : host_(host), lobby_(lobby), id_(id), drops_(drops), stop_(std::move(stop)) {}
  void Serve();

  const Host& host_;
  Lobby& lobby_;
  const MoveId id_;
  DropLog& drops_;
  const EventFd stop_;
  std::vector<Lobby::Arrival> kept_;  // the thread's
  Thread thread_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DOOR_H_
