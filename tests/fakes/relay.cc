#include "tests/fakes/relay.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/poll.h"
#include "base/status.h"
#include "tests/fakes/accepting.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr size_t kPieceBytes = 64 << 10;
constexpr uint64_t kSlowPiecesASecond = 500;

}  // namespace

absl::StatusOr<std::unique_ptr<Relay>> Relay::Create(const std::string& path, const Address& onward) {
  const Address here = onward.kind == Address::Kind::kUnix ? Address{.kind = Address::Kind::kUnix, .path = path}
                                                           : Address{.host = onward.host, .port = "0"};
  FERRITE_ASSIGN_OR_RETURN(auto listener, Listener::Create(here));
  FERRITE_ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  std::unique_ptr<Relay> relay(new Relay(std::move(listener), onward, std::move(stop)));
  relay->thread_ = StartOrDie("test-relay", [relay = relay.get()] { relay->Accept(); });
  return relay;
}

Relay::Relay(std::unique_ptr<Listener> listener, const Address& onward, EventFd stop)
    : listener_(std::move(listener)), onward_(onward), stop_(std::move(stop)) {}

Relay::~Relay() {
  stop_.Signal();
  thread_.Join();
  std::list<Link> links;
  {
    const absl::MutexLock lock(&mutex_);
    BreakAll();
    links.swap(links_);
  }
  // Joined here, without the lock that their threads take.
}

void Relay::Accept() {
  while (true) {
    auto source = migration::Accept(*listener_, stop_);
    if (absl::IsResourceExhausted(source.status())) {
      // A test's own doing, which passes.
      pollfd stopped{.fd = stop_.fd(), .events = POLLIN, .revents = 0};
      (void)poll(&stopped, 1, 10);
      continue;
    }
    if (!source.ok()) {
      return;
    }
    auto destination = Connect(onward_, absl::Seconds(10), stop_);
    const absl::MutexLock lock(&mutex_);
    if (!destination.ok() || closed_) {
      continue;
    }
    Link& link = links_.emplace_back();
    link.number = links_.size() - 1;
    link.source = *std::move(source);
    link.destination = *std::move(destination);
    link.there = StartOrDie("test-relay-to", [this, &link] { Pump(link, /*to_destination=*/true); });
    link.back = StartOrDie("test-relay-fro", [this, &link] { Pump(link, /*to_destination=*/false); });
  }
}

void Relay::Pump(Link& link, bool to_destination) {
  SocketStream& from = to_destination ? *link.source : *link.destination;
  SocketStream& to = to_destination ? *link.destination : *link.source;
  const std::atomic<bool>& loses = to_destination ? link.loses_there : link.loses_back;
  std::vector<uint8_t> piece(kPieceBytes);
  uint64_t passed = 0;
  while (true) {
    pollfd polled{.fd = from.fd(), .events = POLLIN, .revents = 0};
    const int ready = poll(&polled, 1, -1);
    AwaitLetGo(link);
    const uint64_t rate = bytes_a_second_;
    const size_t most = rate == 0 ? kPieceBytes : std::clamp<uint64_t>(rate / kSlowPiecesASecond, 1, kPieceBytes);
    const ssize_t n = ready < 0 ? -1 : read(from.fd(), piece.data(), most);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      continue;
    }
    if (n > 0) {
      Delay();
      if (rate != 0) {
        Wait(absl::Seconds(static_cast<double>(n) / static_cast<double>(rate)));
      }
      MayAct(static_cast<uint64_t>(n));
    }
    if (n > 0 && loses) {
      continue;
    }
    std::span<uint8_t> goes_on = std::span(piece).first(n > 0 ? static_cast<size_t>(n) : 0);
    if (to_destination) {
      goes_on = MayDamage(goes_on);
    }
    uint64_t allowed = n <= 0 ? 0 : Allow(goes_on.size());
    const bool all_break = allowed < goes_on.size();
    const bool breaks = n > 0 && MayCutConnection(link, to_destination, passed, allowed);
    passed += allowed;
    if (to_destination) {
      MayKeep(link, std::span(piece).first(allowed));
    }
    const bool written = to.WriteAll(std::span<const uint8_t>(piece).first(allowed)).ok();
    if (n <= 0 || !written || all_break || breaks) {
      // An end is passed on as one.
      to.Shutdown();
      from.Shutdown();
      if (all_break) {
        const absl::MutexLock lock(&mutex_);
        BreakAll();
      }
      return;
    }
  }
}

void Relay::Delay() {
  absl::Duration delay;
  {
    const absl::MutexLock lock(&mutex_);
    if (most_delay_ == absl::ZeroDuration()) {
      return;
    }
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    delay = most_delay_ * (static_cast<double>(random_ % 1024) / 1024);
  }
  Wait(delay);
}

bool Relay::Wait(absl::Duration time) const {
  pollfd stopped{.fd = stop_.fd(), .events = POLLIN, .revents = 0};
  return PollFor({&stopped, 1}, time) == 0;
}

void Relay::AwaitLetGo(const Link& link) const {
  while (MonotonicNs() < link.held_until && Wait(absl::Nanoseconds(link.held_until - MonotonicNs()))) {
  }
}

void Relay::MayAct(uint64_t bytes) {
  std::function<void()> act;
  {
    const absl::MutexLock lock(&mutex_);
    if (act_ && bytes >= acts_after_) {
      act.swap(act_);
    }
    acts_after_ -= std::min(acts_after_, bytes);
  }
  if (act) {
    act();
  }
}

std::span<uint8_t> Relay::MayDamage(std::span<uint8_t> piece) {
  const absl::MutexLock lock(&mutex_);
  if (!damages_after_.has_value()) {
    return piece;
  }
  const bool among_pages = damage_ == Damage::kFlipAmongPages;
  if (*damages_after_ >= piece.size() || (among_pages && piece.size() < kPieceBytes / 2)) {
    *damages_after_ -= std::min<uint64_t>(*damages_after_, piece.size());
    return piece;
  }
  const size_t at = among_pages ? piece.size() / 2 : *damages_after_;
  damages_after_.reset();
  ++damages_;
  if (damage_ != Damage::kLoss) {
    piece[at] ^= 0x10;
    return piece;
  }
  const size_t missing = std::min<size_t>(1 + at % 7, piece.size() - at);
  std::copy(piece.begin() + at + missing, piece.end(), piece.begin() + at);
  return piece.first(piece.size() - missing);
}

uint64_t Relay::Allow(uint64_t wanted) {
  const absl::MutexLock lock(&mutex_);
  const uint64_t allowed = will_cut_ ? std::min(wanted, left_) : wanted;
  bytes_ += allowed;
  if (will_cut_) {
    left_ -= allowed;
    if (allowed < wanted) {
      will_cut_ = false;
      ++cuts_;
    }
  }
  return allowed;
}

bool Relay::MayCutConnection(const Link& link, bool to_destination, uint64_t passed, uint64_t& allowed) {
  const absl::MutexLock lock(&mutex_);
  if (!connection_cut_.has_value() || connection_cut_->number != link.number ||
      connection_cut_->to_destination != to_destination || passed + allowed < connection_cut_->bytes) {
    return false;
  }
  allowed = connection_cut_->bytes - std::min(passed, connection_cut_->bytes);
  connection_cut_.reset();
  ++cuts_;
  return true;
}

void Relay::Break(Link& link) {
  for (const SocketStream* stream : {link.source.get(), link.destination.get()}) {
    // A reset, where the kind of socket has one; an end otherwise.
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    // The thread sanitizer takes connect(2) beside read(2) for a race of ours.
    (void)syscall(SYS_connect, stream->fd(), &nobody, sizeof(nobody));
  }
  link.source->Shutdown();
  link.destination->Shutdown();
}

void Relay::BreakAll() {
  for (Link& link : links_) {
    Break(link);
  }
}

void Relay::CutConnection(uint64_t number) {
  const absl::MutexLock lock(&mutex_);
  for (Link& link : links_) {
    if (link.number == number) {
      ++cuts_;
      Break(link);
    }
  }
}

void Relay::LoseConnection(uint64_t number) {
  const absl::MutexLock lock(&mutex_);
  for (Link& link : links_) {
    if (link.number == number) {
      link.loses_there = link.loses_back = true;
    }
  }
}

void Relay::CutAfter(uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  if (bytes == 0) {
    ++cuts_;
    will_cut_ = false;
    BreakAll();
    return;
  }
  will_cut_ = true;
  left_ = bytes;
}

void Relay::CutConnectionAfter(uint64_t number, bool to_destination, uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  connection_cut_ = {.number = links_.size() + number, .to_destination = to_destination, .bytes = bytes};
}

void Relay::ActAfter(uint64_t bytes, std::function<void()> act) {
  const absl::MutexLock lock(&mutex_);
  acts_after_ = bytes;
  act_ = std::move(act);
}

void Relay::Lose(bool to_destination) {
  const absl::MutexLock lock(&mutex_);
  for (Link& link : links_) {
    (to_destination ? link.loses_there : link.loses_back) = true;
  }
}

void Relay::SlowTo(uint64_t bytes_a_second) { bytes_a_second_ = bytes_a_second; }

void Relay::HoldFor(absl::Duration time) {
  const absl::MutexLock lock(&mutex_);
  for (Link& link : links_) {
    link.held_until = MonotonicNs() + absl::ToInt64Nanoseconds(time);
  }
}

void Relay::DelayBy(absl::Duration most) {
  const absl::MutexLock lock(&mutex_);
  most_delay_ = most;
}

void Relay::DamageAfter(uint64_t bytes, Damage damage) {
  const absl::MutexLock lock(&mutex_);
  damages_after_ = bytes;
  damage_ = damage;
}

uint64_t Relay::damages() const {
  const absl::MutexLock lock(&mutex_);
  return damages_;
}

void Relay::Close() {
  const absl::MutexLock lock(&mutex_);
  closed_ = true;
}

void Relay::Open() {
  const absl::MutexLock lock(&mutex_);
  closed_ = false;
}

void Relay::Record() {
  const absl::MutexLock lock(&mutex_);
  records_ = true;
}

std::vector<std::vector<uint8_t>> Relay::recorded() const {
  std::vector<std::vector<uint8_t>> all;
  const absl::MutexLock lock(&mutex_);
  for (const Link& link : links_) {
    all.push_back(link.said);
  }
  return all;
}

void Relay::MayKeep(Link& link, std::span<const uint8_t> piece) {
  const absl::MutexLock lock(&mutex_);
  if (records_) {
    link.said.insert(link.said.end(), piece.begin(), piece.end());
  }
}

uint64_t Relay::cuts() const {
  const absl::MutexLock lock(&mutex_);
  return cuts_;
}

uint64_t Relay::bytes() const {
  const absl::MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace ferrite::migration
