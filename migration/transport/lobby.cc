#include "migration/transport/lobby.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/status.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kLongestPoll = absl::Hours(1);  // of one call: a timespec has no infinity

}  // namespace

Lobby::Lobby(Listener& listener, Options options, std::function<void(const std::string&, absl::string_view)> on_dropped)
    : listener_(listener), options_(options), on_dropped_(std::move(on_dropped)) {}

absl::StatusOr<Lobby::Arrival> Lobby::Next(const EventFd& cancel, MonotonicTime deadline) {
  const std::string what = absl::StrCat("accept on ", listener_.address().ToString());
  if (!put_back_.empty()) {
    Arrival arrival = std::move(put_back_.front());
    put_back_.pop_front();
    return arrival;
  }
  while (true) {
    while (!waiting_.empty() && waiting_.front().deadline <= MonotonicTime::Now()) {
      Drop(waiting_.begin(), "it did not say who it is");
    }
    const MonotonicTime until = waiting_.empty() ? deadline : std::min(deadline, waiting_.front().deadline);
    std::vector<pollfd> polled = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0},
                                  {.fd = listener_.fd(), .events = POLLIN, .revents = 0}};
    for (const Waiting& one : waiting_) {
      polled.push_back({.fd = one.arrival.stream->fd(), .events = POLLIN, .revents = 0});
    }
    const timespec left =
        absl::ToTimespec(std::clamp(until - MonotonicTime::Now(), absl::ZeroDuration(), kLongestPoll));
    if (ppoll(polled.data(), polled.size(), &left, nullptr) < 0 && errno != EINTR) {
      return ErrnoStatus(absl::StrCat(what, ": poll"));
    }
    if (polled[0].revents != 0) {
      return absl::CancelledError(absl::StrCat(what, ": cancelled"));
    }
    size_t index = 2;
    for (Place place = waiting_.begin(); place != waiting_.end(); ++index) {
      const Place now = place++;
      if (polled[index].revents != 0 && Read(now)) {
        Arrival arrival = std::move(now->arrival);
        waiting_.erase(now);
        return arrival;
      }
    }
    if (polled[1].revents != 0) {
      FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, listener_.AcceptNow());
      if (stream != nullptr) {
        Admit(std::move(stream));
      }
    }
    if (MonotonicTime::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(what, ": nobody came in time"));
    }
  }
}

void Lobby::Admit(std::unique_ptr<Stream> stream) {
  if (waiting_.size() == options_.most) {
    Drop(waiting_.begin(), "too many others wait");
  }
  waiting_.push_back(
      {.arrival = {.stream = std::move(stream), .first_bytes = std::vector<uint8_t>(options_.first_bytes)},
       .have = 0,
       .deadline = MonotonicTime::Now() + options_.patience});
}

void Lobby::Drop(Place place, absl::string_view why) {
  on_dropped_(place->arrival.stream->peer(), why);
  waiting_.erase(place);
}

bool Lobby::Read(Place place) {
  std::vector<uint8_t>& bytes = place->arrival.first_bytes;
  const ssize_t n =
      recv(place->arrival.stream->fd(), bytes.data() + place->have, bytes.size() - place->have, MSG_DONTWAIT);
  if (n <= 0) {
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
      Drop(place, n == 0 ? "it closed before it said who it is" : ErrnoStatus("receive").message());
    }
    return false;
  }
  place->have += static_cast<size_t>(n);
  return place->have == bytes.size();
}

}  // namespace ferrite::migration
