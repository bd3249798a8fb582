// Stands between the two sides of a move and can cut what passes: a network that fails when a test wants it to.
#ifndef FERRITE_TESTS_FAKES_RELAY_H_
#define FERRITE_TESTS_FAKES_RELAY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_stream.h"

namespace ferrite::migration {

// Listens at a unix path of its own, or for tcp at a port of its own, and connects on to another address. Threads: any.
class Relay {
 public:
  static absl::StatusOr<std::unique_ptr<Relay>> Create(const std::string& path, const Address& onward);
  ~Relay();

  const Address& address() const { return listener_->address(); }

  // Every connection breaks now, wherever its bytes are.
  void Cut() { CutAfter(0); }
  // They break when that many more bytes have passed, of all of them together, in both directions.
  void CutAfter(uint64_t bytes);
  // One breaks: of those that come from now on the one of that number, from 0, when so many bytes of it have passed
  // that way. 0: when there is a first one.
  void CutConnectionAfter(uint64_t number, bool to_destination, uint64_t bytes);
  // What is done to a stream of bytes.
  enum class Damage {
    kFlipAmongPages,  // a bit is changed in the middle of a piece that is mostly bytes of pages
    kFlip,            // a bit is changed, whatever it is of
    kLoss,            // up to seven bytes are missing, whatever they are of
  };
  // The one of that number breaks now, of all that came, from 0.
  void CutConnection(uint64_t number);
  // That, of what goes to the destination, when so many more bytes have passed that way.
  void DamageAfter(uint64_t bytes, Damage damage);
  // `act` is called once, on a thread of the relay, when that many more bytes have passed, of all connections together,
  // in both directions.
  void ActAfter(uint64_t bytes, std::function<void()> act);
  // What the connections that there are now carry one way is lost from here on, and nobody is told.
  void Lose(bool to_destination);
  // The same of one of them, both ways.
  void LoseConnection(uint64_t number);
  // Each piece that passes is late by up to `most`, each connection for itself.
  void DelayBy(absl::Duration most);
  // From here on each connection takes so many bytes a second at most, each way, and little at a time: a slow peer.
  void SlowTo(uint64_t bytes_a_second);
  // Nothing of the connections that there are now passes for so long; then all of it does.
  void HoldFor(absl::Duration time);
  // How often something was damaged.
  uint64_t damages() const;
  // While it is closed, new connections break at once.
  void Close();
  void Open();

  // Keeps what sources say from now on.
  void Record();
  // All of it, by connection, in the order in which they came.
  std::vector<std::vector<uint8_t>> recorded() const;

  uint64_t cuts() const;
  // That passed so far.
  uint64_t bytes() const;

 private:
  struct Link {
    std::unique_ptr<SocketStream> source;
    std::unique_ptr<SocketStream> destination;
    std::atomic<bool> loses_there{false};
    std::atomic<bool> loses_back{false};
    std::atomic<int64_t> held_until{0};  // MonotonicNs()
    uint64_t number = 0;
    std::vector<uint8_t> said;  // by the source, where that is kept
    Thread there;
    Thread back;
  };

  Relay(std::unique_ptr<Listener> listener, const Address& onward, EventFd stop);
  void Accept();
  void Pump(Link& link, bool to_destination);
  void Delay();
  // Whether all of it passed: not where the relay ends.
  bool Wait(absl::Duration time) const;
  void AwaitLetGo(const Link& link) const;
  void MayAct(uint64_t bytes);
  // The piece as it goes on.
  std::span<uint8_t> MayDamage(std::span<uint8_t> piece);
  void MayKeep(Link& link, std::span<const uint8_t> piece);
  // How many of `wanted` bytes may pass.
  uint64_t Allow(uint64_t wanted);
  // Of those, and of `link` alone, of which that many have passed this way; whether it breaks then.
  bool MayCutConnection(const Link& link, bool to_destination, uint64_t passed, uint64_t& allowed);
  static void Break(Link& link);
  void BreakAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<Listener> listener_;
  const Address onward_;
  const EventFd stop_;
  mutable absl::Mutex mutex_;
  std::list<Link> links_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool records_ ABSL_GUARDED_BY(mutex_) = false;
  bool will_cut_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t left_ ABSL_GUARDED_BY(mutex_) = 0;
  struct ConnectionCut {
    uint64_t number;
    bool to_destination;
    uint64_t bytes;
  };
  std::optional<ConnectionCut> connection_cut_ ABSL_GUARDED_BY(mutex_);
  uint64_t acts_after_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void()> act_ ABSL_GUARDED_BY(mutex_);
  absl::Duration most_delay_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> bytes_a_second_{0};  // 0: as many as there are
  uint64_t random_ ABSL_GUARDED_BY(mutex_) = 88172645463325252;
  std::optional<uint64_t> damages_after_ ABSL_GUARDED_BY(mutex_);
  Damage damage_ ABSL_GUARDED_BY(mutex_) = Damage::kFlip;
  uint64_t damages_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t cuts_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Thread thread_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_RELAY_H_
