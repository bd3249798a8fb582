#include "tests/fakes/relay.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/poll.h"
#include "base/status.h"
#include "tests/fakes/accepting.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr size_t kPieceBytes = 64 << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<Relay>> Relay::Create(const std::string& path, const Address& onward) {
  FERRITE_ASSIGN_OR_RETURN(auto listener, Listener::Create({.kind = Address::Kind::kUnix, .path = path}));
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
  while (true) {
    pollfd polled{.fd = from.fd(), .events = POLLIN, .revents = 0};
    const int ready = poll(&polled, 1, -1);
    const ssize_t n = ready < 0 ? -1 : read(from.fd(), piece.data(), piece.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      continue;
    }
    if (n > 0) {
      Delay();
      MayAct(static_cast<uint64_t>(n));
    }
    if (n > 0 && loses) {
      continue;
    }
    if (n > 0 && to_destination) {
      MayFlip(std::span(piece).first(static_cast<size_t>(n)));
    }
    const uint64_t allowed = n <= 0 ? 0 : Allow(static_cast<uint64_t>(n));
    if (to_destination) {
      MayKeep(link, std::span(piece).first(allowed));
    }
    const bool passed = to.WriteAll(std::span<const uint8_t>(piece).first(allowed)).ok();
    if (n <= 0 || !passed || allowed < static_cast<uint64_t>(n)) {
      // An end is passed on as one.
      to.Shutdown();
      from.Shutdown();
      if (n > 0 && allowed < static_cast<uint64_t>(n)) {
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
  pollfd stopped{.fd = stop_.fd(), .events = POLLIN, .revents = 0};
  (void)PollFor({&stopped, 1}, delay);
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

void Relay::MayFlip(std::span<uint8_t> piece) {
  const absl::MutexLock lock(&mutex_);
  if (!flips_after_.has_value()) {
    return;
  }
  if (*flips_after_ > 0 || piece.size() < kPieceBytes / 2) {
    *flips_after_ -= std::min<uint64_t>(*flips_after_, piece.size());
    return;
  }
  piece[piece.size() / 2] ^= 0x10;
  ++flips_;
  flips_after_.reset();
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

void Relay::BreakAll() {
  for (Link& link : links_) {
    link.source->Shutdown();
    link.destination->Shutdown();
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

void Relay::DelayBy(absl::Duration most) {
  const absl::MutexLock lock(&mutex_);
  most_delay_ = most;
}

void Relay::FlipAfter(uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  flips_after_ = bytes;
}

uint64_t Relay::flips() const {
  const absl::MutexLock lock(&mutex_);
  return flips_;
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
