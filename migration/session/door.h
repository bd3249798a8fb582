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
#include "migration/channel/rendezvous.h"
#include "migration/protocol/preamble.h"
#include "migration/session/credentials.h"

namespace ferrite::migration {

inline constexpr absl::string_view kBusy = "the destination is busy with another move";

// Tells whoever is behind a connection with control frames why it is sent away, in a message that all versions have in
// common. Takes 100 ms at most.
void TurnAway(IncomingChannel& channel, absl::string_view why);

// The preamble of a connection; a source of a version that is not known here is told so.
absl::StatusOr<Preamble> ReadPreamble(IncomingChannel& channel);

// Answers the door while nobody else does: sources of other moves hear at once that this destination is busy, and
// connections that prove that they are of the move `id` are put back into the acceptor when the doorman goes. Threads:
// the acceptor is the doorman's for as long as it lives.
class Doorman {
 public:
  // `credentials` are those of the move; they outlive it, and nobody changes them meanwhile.
  static absl::StatusOr<std::unique_ptr<Doorman>> Create(const Host& host, ChannelAcceptor& acceptor, const MoveId& id,
                                                         const Credentials& credentials, DropLog& drops);
  ~Doorman();

 private:
  Doorman(const Host& host, ChannelAcceptor& acceptor, const MoveId& id, const Credentials& credentials, DropLog& drops,
          EventFd stop)
      : host_(host), acceptor_(acceptor), id_(id), credentials_(credentials), drops_(drops), stop_(std::move(stop)) {}
  void Serve();
  // Whether `channel` is to be kept. If not, who is of another move was told.
  absl::Status Look(IncomingChannel& channel) const;

  const Host& host_;
  ChannelAcceptor& acceptor_;
  const MoveId id_;
  const Credentials& credentials_;
  DropLog& drops_;
  const EventFd stop_;
  std::vector<std::unique_ptr<IncomingChannel>> kept_;  // the thread's
  Thread thread_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DOOR_H_
