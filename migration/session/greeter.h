// The first words between a destination and the sources that come to it.
#ifndef FERRITE_MIGRATION_SESSION_GREETER_H_
#define FERRITE_MIGRATION_SESSION_GREETER_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/host.h"
#include "migration/api/machine_spec.h"
#include "migration/api/move_id.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/drop_log.h"
#include "migration/session/credentials.h"

namespace ferrite::migration {

// Greets whoever connects as a source, several at once, until they have said what machine they bring, and proved that
// they heard WELCOME: one that is slow keeps no other waiting. Each has a time in which to say all of it, in messages
// of kMaxGreetingBytes at most. When too many came one makes room for each that comes (migration/channel/crowd.h;
// silent is who has not said HELLO). Each is served by the thread of its own connection.
//
// Threads: one.
class Greeter {
 public:
  struct Options {
    absl::Duration patience;  // from Admit() to MACHINE
    size_t most = 8;          // at a time
  };
  // The move that a source offered, and the terms on which it was welcomed.
  struct Terms {
    MoveId id{};
    uint64_t features = 0;  // that both sides have
    uint16_t page_channels = 0;
    uint16_t urgent_channels = 0;
  };
  struct Chosen {
    std::string who;  // for messages
    std::unique_ptr<ControlPeer> peer;
    MachineSpec machine;
    Terms terms;
    Credentials credentials;
  };

  // `on_news` is called on other threads when Look() may find something, which may wait for it to return, and `on_lost`
  // on the thread of the chosen connection when that is lost after Look() returned it, at most once. Both, and `host`,
  // outlive the greeter, and the second one and `host` the connection.
  Greeter(Options options, const Host& host, DropLog& drops, std::function<void()> on_news,
          std::function<void(const absl::Status&)> on_lost);
  ~Greeter();

  // `origin` is IncomingChannel::origin().
  void Admit(std::unique_ptr<ControlChannel> channel, std::string origin, const MoveId& id);
  // Drops who left, said that its move is over, or had time enough. Returns the first of those that have said what
  // machine they bring, if there is one; it is none of the others any more.
  std::optional<Chosen> Look();
  // Drops one, for want of descriptors. False when there is none.
  bool LetGo();
  // Tells all that are left why none of them was chosen, and drops them.
  void SendAway(const absl::Status& why);
  // When the next one has had time enough.
  MonotonicTime deadline() const;

 private:
  class Caller;
  using Place = std::list<std::shared_ptr<Caller>>::iterator;

  // For one that comes from `origin`.
  void MakeRoom(absl::string_view origin, absl::string_view why);
  void Drop(Place place, const absl::Status& why);

  const Options options_;
  const Host& host_;
  DropLog& drops_;
  const std::function<void()> on_news_;
  const std::function<void(const absl::Status&)> on_lost_;
  std::list<std::shared_ptr<Caller>> callers_;  // the one that came first is first
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_GREETER_H_
