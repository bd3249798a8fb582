// Where connections wait until they have said who they are.
#ifndef FERRITE_MIGRATION_TRANSPORT_LOBBY_H_
#define FERRITE_MIGRATION_TRANSPORT_LOBBY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/transport/socket.h"
#include "migration/transport/stream.h"
#include "vmm/base/fd.h"
#include "vmm/base/log_backoff.h"
#include "vmm/base/monotonic.h"

namespace ferrite::migration {

// Accepts connections and waits for the first bytes of all of them at once: one that is silent, or slow, keeps no other
// waiting. It is dropped when its time is up, or when too many others came after it. What cannot be accepted for want
// of descriptors or memory is tried again until it can, with a line in the log now and then. Threads: one.
class Lobby {
 public:
  struct Options {
    size_t first_bytes = 0;   // that each connection begins with
    absl::Duration patience;  // how long it has for them
    size_t most = 64;         // connections that wait at a time
  };
  struct Arrival {
    std::unique_ptr<Stream> stream;
    std::vector<uint8_t> first_bytes;
  };

  // `on_dropped` hears of each connection that is dropped here, and why. `listener` outlives the lobby.
  Lobby(Listener& listener, Options options,
        std::function<void(const std::string& peer, absl::string_view why)> on_dropped);

  // The next connection whose first bytes are here. CANCELLED as soon as `cancel` is signalled, DEADLINE_EXCEEDED at
  // the deadline.
  absl::StatusOr<Arrival> Next(const EventFd& cancel, MonotonicTime deadline = MonotonicTime::InfiniteFuture());
  // An arrival that was for somebody else to take: the first that Next() returns.
  void PutBack(Arrival arrival) { put_back_.push_back(std::move(arrival)); }

 private:
  struct Waiting {
    Arrival arrival;
    size_t have = 0;
    MonotonicTime deadline;
  };
  using Place = std::list<Waiting>::iterator;

  void Admit(std::unique_ptr<Stream> stream);
  // Leaves the listener alone for a while.
  void OnNotAccepted(const absl::Status& why);
  void Drop(Place place, absl::string_view why);
  // Whether all of its first bytes are here. Drops one that ended.
  bool Read(Place place);

  Listener& listener_;
  const Options options_;
  const std::function<void(const std::string&, absl::string_view)> on_dropped_;
  std::list<Arrival> put_back_;
  std::list<Waiting> waiting_;  // the one that came first is first
  MonotonicTime accept_again_ = MonotonicTime::InfinitePast();
  LogBackoff log_backoff_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_TRANSPORT_LOBBY_H_
