#include "migration/channel/rdma/lane_setup.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/status.h"
#include "migration/secret/move_secret.h"

namespace ferrite::migration {
namespace {

std::string HostOf(const sockaddr_storage& address, socklen_t length) {
  std::array<char, NI_MAXHOST> host;
  if ((address.ss_family != AF_INET && address.ss_family != AF_INET6) ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host.data(), host.size(), nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    return "";
  }
  return host.data();
}

}  // namespace

std::string HostHere(const Stream& stream) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  return getsockname(stream.fd(), reinterpret_cast<sockaddr*>(&address), &length) == 0 ? HostOf(address, length) : "";
}

std::string HostThere(const Stream& stream) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  return getpeername(stream.fd(), reinterpret_cast<sockaddr*>(&address), &length) == 0 ? HostOf(address, length) : "";
}

std::string GreetingOf(const LaneToken& token, char lane) {
  std::string greeting(reinterpret_cast<const char*>(token.data()), token.size());
  greeting.push_back(lane);
  return greeting;
}

absl::StatusOr<LaneToken> MakeLaneToken() {
  FERRITE_ASSIGN_OR_RETURN(const Nonce nonce, MakeNonce());
  LaneToken token;
  std::copy_n(nonce.begin(), token.size(), token.begin());
  return token;
}

absl::StatusOr<Lanes> AwaitLanes(Stream& stream, MonotonicTime deadline, const EventFd& cancel, const Clock& clock) {
  std::array<uint8_t, kLanesBytes> bytes;
  for (size_t have = 0; have < bytes.size();) {
    const absl::StatusOr<size_t> n = stream.ReadSome(std::span(bytes).subspan(have));
    if (!n.ok()) {
      return absl::UnavailableError(absl::StrCat(
          n.status().message(), " before it said whether it takes RDMA; an older ferrite does not know it"));
    }
    have += *n;
    if (*n > 0) {
      continue;
    }
    pollfd polled[] = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0},
                       {.fd = stream.fd(), .events = POLLIN, .revents = 0}};
    (void)clock.PollFor(polled, deadline - clock.Now());
    if (polled[0].revents != 0) {
      return absl::CancelledError(absl::StrCat(stream.peer(), ": cancelled"));
    }
    if (polled[1].revents == 0 && clock.Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(stream.peer(), " did not say in time whether it takes RDMA"));
    }
  }
  FERRITE_ASSIGN_OR_RETURN(Lanes lanes, DecodeLanes(bytes));
  if (lanes.port == 0) {
    return absl::FailedPreconditionError(absl::StrCat("the destination takes no RDMA: ", CleanText(lanes.reason)));
  }
  return lanes;
}

}  // namespace ferrite::migration
