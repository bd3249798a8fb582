#include "migration/channel/socket/lobby.h"

#include <dirent.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/crowd.h"
#include "migration/channel/socket/origin.h"
#include "migration/secret/move_secret.h"

namespace ferrite::migration {
namespace {

// After a connection that could not be accepted: nothing tells when the next one can be.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);
// That wait whatever else the descriptors are for: the one that is waited for has to be among them for an instant.
constexpr size_t kFewest = 8;

// That this process may still open.
size_t FreeDescriptors() {
  rlimit limit = {};
  DIR* const open = opendir("/proc/self/fd");
  if (open == nullptr || getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return 0;
  }
  size_t used = 0;
  while (readdir(open) != nullptr) {
    ++used;  // "." and ".." among them, and `open`
  }
  (void)closedir(open);
  return used < limit.rlim_cur ? limit.rlim_cur - used : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Lobby>> Lobby::Create(Listener* listener, Options options, const Host& host) {
  FERRITE_ASSIGN_OR_RETURN(EventFd news, EventFd::Create());
  return std::unique_ptr<Lobby>(new Lobby(listener, std::move(options), host, std::move(news)));
}

Lobby::Lobby(Listener* listener, Options options, const Host& host, EventFd news)
    : listener_(listener),
      what_(listener == nullptr ? "take connections" : absl::StrCat("accept on ", listener->address().ToString())),
      options_(std::move(options)),
      host_(host),
      keep_free_(options_.keep_free),
      news_(std::move(news)) {}

absl::StatusOr<Lobby::Arrival> Lobby::Next(const EventFd& cancel, MonotonicTime deadline) {
  if (!put_back_.empty()) {
    Arrival arrival = std::move(put_back_.front());
    put_back_.pop_front();
    return arrival;
  }
  while (true) {
    while (!waiting_.empty() && waiting_.front().deadline <= host_.clock.Now()) {
      const Waiting& late = waiting_.front();
      Drop(waiting_.begin(), late.handshake != nullptr            ? "its TLS handshake did not come to an end"
                             : late.arrival.challenge.has_value() ? "it did not answer its challenge"
                                                                  : "it did not say who it is");
    }
    MonotonicTime until = waiting_.empty() ? deadline : std::min(deadline, waiting_.front().deadline);
    const bool accepts = host_.clock.Now() >= accept_again_;
    if (!accepts) {
      until = std::min(until, accept_again_);
    }
    // Readable all the time while it cannot be accepted: it is passed over until then.
    std::vector<pollfd> polled = {
        {.fd = cancel.fd(), .events = POLLIN, .revents = 0},
        {.fd = accepts && listener_ != nullptr ? listener_->fd() : -1, .events = POLLIN, .revents = 0},
        {.fd = news_.fd(), .events = POLLIN, .revents = 0}};
    for (const Waiting& one : waiting_) {
      const bool shakes = one.handshake != nullptr;
      polled.push_back({.fd = shakes ? one.handshake->fd() : one.arrival.stream->fd(),
                        .events = shakes ? one.handshake->events() : static_cast<short>(POLLIN),  // NOLINT: poll(2)'s
                        .revents = 0});
    }
    // A guest may depend on the wait.
    (void)host_.clock.PollFor(polled, until - host_.clock.Now());
    if (polled[0].revents != 0) {
      return absl::CancelledError(absl::StrCat(what_, ": cancelled"));
    }
    std::optional<Arrival> arrival;
    size_t index = 3;
    for (Place place = waiting_.begin(); place != waiting_.end() && !arrival.has_value(); ++index) {
      const Place now = place++;
      if (polled[index].revents != 0 && Shake(now) && Read(now)) {
        arrival = std::move(now->arrival);
        waiting_.erase(now);
      }
    }
    // Also when there is one to return: as long as some are ready whenever somebody looks, nobody would be let in.
    if (polled[1].revents != 0) {
      FERRITE_RETURN_IF_ERROR(AcceptAll(/*makes_room=*/!arrival.has_value()));
    }
    if (polled[2].revents != 0) {
      AdmitHandedIn();
    }
    if (arrival.has_value()) {
      return *std::move(arrival);
    }
    if (host_.clock.Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(what_, ": nobody came in time"));
    }
  }
}

absl::Status Lobby::AcceptAll(bool makes_room) {
  // Who came with this look has not been read yet, and makes room for nobody.
  for (size_t i = 0; i < options_.most && ((makes_room && i == 0) || waiting_.size() < Room()); ++i) {
    absl::StatusOr<std::unique_ptr<SocketStream>> stream = listener_->AcceptNow();
    if (absl::IsResourceExhausted(stream.status())) {
      // Whether that was enough shows at the next look.
      if (makes_room && i == 0 && !MakeRoom("", "no more files can be open here, and another one came") &&
          (!let_go_ || !let_go_())) {
        OnNotAccepted(stream.status());
      }
      return absl::OkStatus();
    }
    if (absl::IsUnavailable(stream.status())) {
      OnNotAccepted(stream.status());
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(stream.status());
    if (*stream == nullptr) {
      return absl::OkStatus();
    }
    if (!options_.from.empty() && !IsFrom((*stream)->fd(), options_.from)) {
      if (on_dropped_) {
        on_dropped_((*stream)->peer(), "its address is in no range of --from");
      }
    } else {
      Admit(*std::move(stream));
    }
  }
  return absl::OkStatus();
}

size_t Lobby::Room() const {
  return keep_free_ > 0 && FreeDescriptors() < keep_free_ ? std::min(kFewest, options_.most) : options_.most;
}

void Lobby::HandIn(std::unique_ptr<SocketStream> stream) {
  {
    const absl::MutexLock lock(&mutex_);
    handed_in_.push_back(std::move(stream));
  }
  news_.Signal();
}

void Lobby::AdmitHandedIn() {
  (void)news_.Drain();
  std::vector<std::unique_ptr<SocketStream>> streams;
  {
    const absl::MutexLock lock(&mutex_);
    streams.swap(handed_in_);
  }
  for (std::unique_ptr<SocketStream>& stream : streams) {
    Admit(std::move(stream));
  }
}

void Lobby::Admit(std::unique_ptr<SocketStream> stream) {
  std::string origin = OriginOf(stream->fd());
  if (const size_t room = Room(); waiting_.size() >= room) {
    (void)MakeRoom(origin, room == options_.most ? "too many others wait"
                                                 : "the files that can still be open here are for a machine");
  }
  std::unique_ptr<Handshake> handshake;
  if (options_.security != nullptr) {
    const std::string peer = stream->peer();
    absl::StatusOr<std::unique_ptr<Handshake>> started = options_.security->Start(std::move(stream));
    if (!started.ok()) {
      if (on_dropped_) {
        on_dropped_(peer, started.status().message());
      }
      return;
    }
    handshake = *std::move(started);
  }
  waiting_.push_back({.arrival = {.stream = std::move(stream),
                                  .first_bytes = std::vector<uint8_t>(options_.first_bytes),
                                  .origin = std::move(origin),
                                  .challenge = std::nullopt,
                                  .answer = {}},
                      .handshake = std::move(handshake),
                      .have = 0,
                      .deadline = host_.clock.Now() + options_.patience});
}

bool Lobby::MakeRoom(absl::string_view origin, absl::string_view why) {
  if (waiting_.empty()) {
    return false;
  }
  std::vector<Present> here;
  for (const Waiting& one : waiting_) {
    here.push_back({.origin = one.arrival.origin, .silent = one.have == 0 && !one.arrival.challenge.has_value()});
  }
  Drop(std::next(waiting_.begin(), static_cast<ptrdiff_t>(WhoMakesRoom(here, origin))), why);
  return true;
}

void Lobby::OnNotAccepted(const absl::Status& why) {
  const MonotonicTime now = host_.clock.Now();
  accept_again_ = now + kAcceptPause;
  if (const std::optional<uint64_t> not_logged = log_backoff_.Count(now); not_logged.has_value()) {
    IfThereIsMemory([&] {
      host_.log.Warn(absl::StrCat(why.message(), "; it is tried again",
                                  *not_logged == 0 ? "" : absl::StrCat(" (and ", *not_logged, " failures before it)")));
    });
  }
}

void Lobby::Drop(Place place, absl::string_view why) {
  if (on_dropped_) {
    on_dropped_(place->peer(), why);
  }
  waiting_.erase(place);
}

bool Lobby::Shake(Place place) {
  if (place->handshake == nullptr) {
    return true;
  }
  absl::StatusOr<std::unique_ptr<Stream>> stream = place->handshake->Step();
  if (!stream.ok()) {
    Drop(place, stream.status().message());
    return false;
  }
  if (*stream == nullptr) {
    return false;
  }
  place->arrival.stream = *std::move(stream);
  place->handshake = nullptr;
  return true;
}

bool Lobby::Read(Place place) {
  Arrival& arrival = place->arrival;
  // More may be here already than shows at the descriptor.
  while (true) {
    std::vector<uint8_t>& bytes = arrival.challenge.has_value() ? arrival.answer : arrival.first_bytes;
    const absl::StatusOr<size_t> n = arrival.stream->ReadSome(std::span(bytes).subspan(place->have));
    if (!n.ok()) {
      Drop(place, absl::IsOutOfRange(n.status()) ? "it closed before it said who it is" : n.status().message());
      return false;
    }
    place->have += *n;
    if (place->have < bytes.size()) {
      if (*n == 0) {
        return false;
      }
      continue;
    }
    if (arrival.challenge.has_value() || !options_.challenges || !options_.challenges(arrival.first_bytes)) {
      return true;
    }
    if (!Challenge(place)) {
      return false;
    }
  }
}

bool Lobby::Challenge(Place place) {
  Arrival& arrival = place->arrival;
  const absl::StatusOr<Nonce> challenge = MakeNonce();
  const absl::StatusOr<Nonce> bound = challenge.ok() ? arrival.stream->Bind(*challenge) : challenge;
  if (!bound.ok()) {
    Drop(place, bound.status().message());
    return false;
  }
  arrival.answer.resize(options_.answer_bytes);
  // Nothing was sent to it before, so that there is room for this.
  if (arrival.stream->WriteSome(*challenge) != challenge->size()) {
    Drop(place, "it does not read, or is gone");
    return false;
  }
  arrival.challenge = *bound;
  place->have = 0;
  return true;
}

}  // namespace ferrite::migration
