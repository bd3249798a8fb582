// Where connections wait until they have said who they are.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_LOBBY_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_LOBBY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/log_backoff.h"
#include "base/monotonic.h"
#include "migration/api/host.h"
#include "migration/channel/socket/address_range.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// Accepts connections and waits for the first bytes of all of them at once (before them, for the handshake of what they
// are wrapped in), and for the answer to the challenge that some of these are met with: one that is silent, or slow,
// keeps no other waiting. It is dropped when its time is up,
// or when too many are here and it makes room (crowd.h). For want of descriptors one makes room, too, as long as there
// are any; then, and for want of memory, what cannot be accepted is tried again until it can, with a line in the log
// now and then. Threads: one, but for HandIn().
class Lobby {
 public:
  struct Options {
    size_t first_bytes = 0;   // that each connection begins with
    absl::Duration patience;  // how long it has for its handshake, for them, and for its answer
    size_t most = 64;         // connections that wait at a time
    // Descriptors of this process that are for others than those who wait: while fewer are left, some of them wait and
    // no more.
    size_t keep_free = 0;
    // Whose connections are let in; empty: everybody's. Others are closed without a word.
    std::vector<AddressRange> from;
    // Which first bytes are met with a challenge, and how many bytes answer it. Null: none are.
    std::function<bool(std::span<const uint8_t> first_bytes)> challenges = nullptr;
    size_t answer_bytes = 0;
    // What connections are wrapped in; null: nothing. All of them are.
    std::shared_ptr<StreamSecurity> security = nullptr;
  };
  struct Arrival {
    std::unique_ptr<Stream> stream;
    std::vector<uint8_t> first_bytes;
    std::string origin;              // OriginOf() the stream
    std::optional<Nonce> challenge;  // fresh, if there was one, as it is bound to the stream
    std::vector<uint8_t> answer;     // to that
  };

  using OnDropped = std::function<void(const std::string& peer, absl::string_view why)>;
  // `listener` and `host` outlive the lobby. Without a listener (null) there are those that were handed in.
  static absl::StatusOr<std::unique_ptr<Lobby>> Create(Listener* listener, Options options, const Host& host);

  // `on_dropped` hears of each connection that is dropped here, and why. May be empty.
  void SetOnDropped(OnDropped on_dropped) { on_dropped_ = std::move(on_dropped); }
  // A connection that came another way; it waits like the others. On any thread, also while Next() waits.
  void HandIn(std::unique_ptr<SocketStream> stream);

  // The next connection whose first bytes are here, and its answer. CANCELLED as soon as `cancel` is signalled,
  // DEADLINE_EXCEEDED at the deadline.
  absl::StatusOr<Arrival> Next(const EventFd& cancel, MonotonicTime deadline = MonotonicTime::InfiniteFuture());
  // `let_go` closes a connection that came through here and is waited for elsewhere; false when there is none. It is
  // asked, on the thread of Next(), when there is no descriptor for another one and none waits in here. May be empty.
  void SetLetGo(std::function<bool()> let_go) { let_go_ = std::move(let_go); }
  // As Options::keep_free, from here on.
  void KeepFree(size_t descriptors) { keep_free_ = descriptors; }
  // An arrival that was for somebody else to take: the first that Next() returns.
  void PutBack(Arrival arrival) { put_back_.push_back(std::move(arrival)); }

 private:
  struct Waiting {
    Arrival arrival;  // has its stream when the handshake is over
    std::unique_ptr<Handshake> handshake;
    size_t have = 0;  // of the first bytes, or of the answer
    MonotonicTime deadline;

    const std::string& peer() const { return handshake != nullptr ? handshake->peer() : arrival.stream->peer(); }
  };
  using Place = std::list<Waiting>::iterator;

  Lobby(Listener* listener, Options options, const Host& host, EventFd news);

  // Accepts those that wait at the listener and for whom there is room. For the first of them one is closed when there
  // is none, if that may be. An error when no other ever can be.
  absl::Status AcceptAll(bool makes_room);
  // How many may wait now.
  size_t Room() const;
  void AdmitHandedIn();
  void Admit(std::unique_ptr<SocketStream> stream);
  // Closes one for another, which comes from `origin`. Whether there was any.
  bool MakeRoom(absl::string_view origin, absl::string_view why);
  // Leaves the listener alone for a while.
  void OnNotAccepted(const absl::Status& why);
  void Drop(Place place, absl::string_view why);
  // Whether its handshake is over. Drops one with which there is none to be had.
  bool Shake(Place place);
  // Whether all that it has to say is here. Drops one that ended.
  bool Read(Place place);
  // Whether its answer is waited for from here on. Drops one that cannot be told.
  bool Challenge(Place place);

  Listener* const listener_;
  const std::string what_;  // is done here, for messages
  const Options options_;
  const Host& host_;
  OnDropped on_dropped_;
  std::function<bool()> let_go_;
  size_t keep_free_;
  std::list<Arrival> put_back_;
  std::list<Waiting> waiting_;  // the one that came first is first
  MonotonicTime accept_again_ = MonotonicTime::InfinitePast();
  LogBackoff log_backoff_;
  const EventFd news_;  // something was handed in
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<SocketStream>> handed_in_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_LOBBY_H_
