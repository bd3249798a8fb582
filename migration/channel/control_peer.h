// One end of the control channel: messages both ways, and the watch over the other side's life.
#ifndef FERRITE_MIGRATION_CHANNEL_CONTROL_PEER_H_
#define FERRITE_MIGRATION_CHANNEL_CONTROL_PEER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel_token.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/host.h"
#include "migration/channel/control_channel.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/messages.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// Threads: any for all methods; Next() from one at a time. A thread of its own reads, answers PING, sends PING when the
// line is quiet, and gives the peer up when nothing was heard of it for `silence`.
class ControlPeer {
 public:
  struct Options {
    std::string thread_name;  // "mig-src-ctl"
    std::string peer_name;    // "the destination": for messages
    absl::Duration silence = absl::Seconds(10);
    uint32_t most_bytes = kMaxControlBytes;  // of a message
    // Called on the reading thread when Next() has something; may be empty. An error ends the connection.
    std::function<absl::Status()> on_message;
  };

  // `on_failure` is called at most once, on the reading thread (or in SetOnBroken()), when the connection is lost, the
  // peer is silent, or it sent ERROR, REFUSE or nonsense. Where the thread cannot be made the peer is told so. `host`
  // outlives it.
  static absl::StatusOr<std::unique_ptr<ControlPeer>> Create(const Host& host, std::unique_ptr<ControlChannel> channel,
                                                             Options options,
                                                             std::function<void(const absl::Status&)> on_failure);
  // Shuts the channel down and joins.
  ~ControlPeer();

  absl::Status Send(const Message& message);
  // The same for one that may not read: takes 100 ms at most for each write.
  absl::Status SendBriefly(const Message& message);
  // Tells the peer why, briefly, as far as it can still be told; nothing is to be sent afterwards.
  void SendLastWords(const absl::Status& error);
  // The same without waiting: as much as goes at once, and nothing to a peer that does not read. Shuts down.
  void HangUp(const absl::Status& error);
  // The channel's, which is short after something was sent briefly.
  void SetPatience(absl::Duration patience) { channel_->SetPatience(patience); }
  // The channel's, as well.
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const { return channel_->Bind(nonce); }
  std::string parties() const { return channel_->parties(); }

  // The next message but PING and PONG; blocks. Messages that arrived before a failure still come first. In place of
  // one that could not be decoded its error comes: the connection lasts, and the peer can be told why.
  absl::StatusOr<Message> Next(absl::Duration limit = absl::InfiniteDuration());
  // Next(), which must be a `T`; DEADLINE_EXCEEDED when it did not come within `limit`.
  template <typename T>
  absl::StatusOr<T> Expect(absl::Duration limit = absl::InfiniteDuration()) {
    absl::StatusOr<Message> next = Next(limit);
    if (!next.ok()) {
      return next.status();
    }
    if (T* const due = std::get_if<T>(&*next); due != nullptr) {
      return std::move(*due);
    }
    return Misplaced(*next, T::kName);
  }

  // Called with each BROKEN, which Next() does not return then: on the reading thread, or here with those that nobody
  // has taken so far. An error ends the connection. Waits for a call that is on. May be empty.
  using OnBroken = std::function<absl::Status(const message::Broken& broken)>;
  void SetOnBroken(OnBroken on_broken);

  // From the next message on.
  void SetSilence(absl::Duration silence) { silence_ms_.store(absl::ToInt64Milliseconds(silence)); }
  void SetMostBytes(uint32_t bytes) {
    most_bytes_.store(bytes);
    channel_->SetMostBytes(bytes);
  }

  // Makes Next() fail with `reason` once the queue is empty, and ends the connection.
  void Shutdown(const absl::Status& reason);
  // Makes Next() fail with `reason` once the queue is empty; does not wait. The connection lasts, and the peer can be
  // told why; a message that is being written ends 200 ms later where the peer does not read it.
  void Interrupt(const absl::Status& reason);
  // The first reason why the connection ended; OK while it lasts.
  absl::Status failure() const;
  // Waits until there is one, not longer than `limit`: when another channel broke, the peer's word of why may still be
  // on its way. `cancel` (may be null) ends the wait.
  void AwaitFailure(absl::Duration limit, CancelToken* cancel = nullptr) const;
  // Whether that was REFUSE.
  bool refused() const { return refused_.load(std::memory_order_acquire); }
  // Whether the peer itself gave the reason (ERROR, REFUSE, CANCEL), and did not merely go away.
  bool said_why() const { return said_why_.load(std::memory_order_acquire); }

 private:
  ControlPeer(const Host& host, std::unique_ptr<ControlChannel> channel, Options options,
              std::function<void(const absl::Status&)> on_failure);

  void ReadLoop();
  using Arrival = ControlChannel::Received;
  // Waits for the next one; sends PING meanwhile.
  absl::StatusOr<Arrival> ReadOne();
  // Handles `arrival` or queues it; an error ends the loop.
  absl::Status Dispatch(Arrival arrival);
  absl::Status Queue(Arrival arrival);
  // The first BROKEN that waits for somebody to take it.
  std::optional<message::Broken> TakeBroken();
  // Ends the connection.
  void Break(const absl::Status& reason);
  absl::Status Misplaced(const Message& message, absl::string_view due) const;
  // A message that is being written is as good as a PING, and is not waited for.
  absl::Status SendPing();
  // A write of the reading thread failed with `why`: an error, the peer's own word of why it went if that is here.
  absl::Status HearLastWords(const absl::Status& why);
  bool Fail(const absl::Status& reason);
  // Whether no message is being written, after `limit` at most.
  bool AwaitWritten(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Write(const Message& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);

  const Host& host_;
  const Options options_;
  std::atomic<int64_t> silence_ms_;
  std::atomic<uint32_t> most_bytes_;
  const std::unique_ptr<ControlChannel> channel_;
  const std::function<void(const absl::Status&)> on_failure_;
  absl::Mutex send_mutex_;
  absl::Mutex broken_mutex_;
  OnBroken on_broken_ ABSL_GUARDED_BY(broken_mutex_);
  mutable TimedMutex mutex_;
  std::deque<Arrival> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Status interrupt_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> quiet_{false};  // PINGs were not answered
  std::atomic<bool> refused_{false};
  std::atomic<bool> said_why_{false};
  Thread reader_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_CONTROL_PEER_H_
