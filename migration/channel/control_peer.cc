#include "migration/channel/control_peer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "base/timed_mutex.h"

namespace ferrite::migration {
namespace {

// A message that is written for longer when the move is to end is one that the peer does not read.
constexpr absl::Duration kWriteGrace = absl::Milliseconds(100);
// The same where the kernel has room for it.
constexpr absl::Duration kSoonWritten = absl::Milliseconds(10);
// Between two PINGs on a quiet line at most, so that a silence that was made shorter counts soon.
constexpr int64_t kPingPauseMs = 2500;

}  // namespace

ControlPeer::ControlPeer(const Host& host, std::unique_ptr<ControlChannel> channel, Options options,
                         std::function<void(const absl::Status&)> on_failure)
    : host_(host),
      options_(std::move(options)),
      silence_ms_(absl::ToInt64Milliseconds(options_.silence)),
      most_bytes_(options_.most_bytes),
      channel_(std::move(channel)),
      on_failure_(std::move(on_failure)) {
  channel_->SetMostBytes(options_.most_bytes);
}

absl::StatusOr<std::unique_ptr<ControlPeer>> ControlPeer::Create(const Host& host,
                                                                 std::unique_ptr<ControlChannel> channel,
                                                                 Options options,
                                                                 std::function<void(const absl::Status&)> on_failure) {
  std::unique_ptr<ControlPeer> peer(
      new ControlPeer(host, std::move(channel), std::move(options), std::move(on_failure)));
  absl::StatusOr<Thread> reader =
      host.threads.Start(peer->options_.thread_name, ThreadClass::kUrgent, [peer = peer.get()] { peer->ReadLoop(); });
  if (!reader.ok()) {
    peer->SendLastWords(reader.status());
    return reader.status();
  }
  peer->reader_ = *std::move(reader);
  return peer;
}

ControlPeer::~ControlPeer() {
  UntilThereIsMemory([this] { Shutdown(absl::CancelledError("the move's connection was closed here")); });
  reader_.Join();
}

absl::Status ControlPeer::Send(const Message& message) {
  const absl::MutexLock lock(&send_mutex_);
  absl::Status status = Write(message);
  if (!status.ok()) {
    // What the peer said before it went away explains more than that it went away.
    if (absl::Status known = failure(); !known.ok()) {
      return known;
    }
  }
  return status;
}

void ControlPeer::SendLastWords(const absl::Status& error) {
  (void)CatchOutOfMemory([&] { return SendBriefly(message::Error{.message = std::string(error.message())}); });
}

void ControlPeer::HangUp(const absl::Status& error) {
  // A peer that does not read has let the buffer become full; what is being written to another one is soon written.
  if (channel_->HasRoom()) {
    channel_->SetSendPatience(kWriteGrace);
    if (AwaitWritten(kSoonWritten)) {
      const message::Error last_words{.message = std::string(error.message())};
      const absl::MutexLock lock(&send_mutex_);
      channel_->SendAtOnce(last_words);
    }
  }
  Shutdown(error);
}

absl::Status ControlPeer::SendBriefly(const Message& message) {
  // For a message that is begun meanwhile, too.
  channel_->SetSendPatience(kWriteGrace);
  if (!AwaitWritten(kWriteGrace)) {
    return absl::UnavailableError(absl::StrCat(options_.peer_name, " does not read what it is told"));
  }
  return Send(message);
}

absl::StatusOr<Message> ControlPeer::Next(absl::Duration limit) {
  const TimedMutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !queue_.empty() || !failure_.ok() || !interrupt_.ok();
  };
  if (!mutex_.AwaitFor(host_.clock, absl::Condition(&ready), limit)) {
    return absl::DeadlineExceededError(absl::StrCat(options_.peer_name, quiet_ ? "" : " lives, but",
                                                    " did not answer within ", absl::FormatDuration(limit)));
  }
  if (queue_.empty()) {
    return failure_.ok() ? interrupt_ : failure_;
  }
  Arrival next = std::move(queue_.front());
  queue_.pop_front();
  queued_bytes_ -= next.bytes;
  return std::move(next.message);
}

absl::Status ControlPeer::Misplaced(const Message& message, absl::string_view due) const {
  return absl::InvalidArgumentError(
      absl::StrCat(options_.peer_name, " sent ", MessageName(message), " where ", due, " was due"));
}

void ControlPeer::Shutdown(const absl::Status& reason) {
  Fail(reason);
  channel_->Shutdown();
}

absl::Status ControlPeer::failure() const {
  const TimedMutexLock lock(&mutex_);
  return failure_;
}

void ControlPeer::Interrupt(const absl::Status& reason) {
  {
    const TimedMutexLock lock(&mutex_);
    interrupt_.Update(reason);
  }
  channel_->SetSendPatience(kWriteGrace);
}

bool ControlPeer::AwaitWritten(absl::Duration limit) {
  const auto written = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !writing_; };
  const TimedMutexLock lock(&mutex_);
  // By the host's time, by which the patience of a socket is, too.
  return mutex_.AwaitFor(RealClock(), absl::Condition(&written), limit);
}

absl::Status ControlPeer::Write(const Message& message) {
  const auto set_writing = [this](bool writing) {
    const TimedMutexLock lock(&mutex_);
    writing_ = writing;
  };
  set_writing(true);
  absl::Status status = CatchOutOfMemory([&] { return channel_->Send(message); });
  set_writing(false);
  return status;
}

void ControlPeer::AwaitFailure(absl::Duration limit, CancelToken* cancel) const {
  bool cancelled = false;
  std::optional<CancelToken::Callback> on_cancel;
  if (cancel != nullptr) {
    on_cancel.emplace(*cancel, [&](const absl::Status&) {
      const TimedMutexLock lock(&mutex_);
      cancelled = true;
    });
  }
  const auto over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !failure_.ok() || cancelled; };
  const TimedMutexLock lock(&mutex_);
  mutex_.AwaitFor(host_.clock, absl::Condition(&over), limit);
}

bool ControlPeer::Fail(const absl::Status& reason) {
  const TimedMutexLock lock(&mutex_);
  if (!failure_.ok()) {
    return false;
  }
  failure_ = reason;
  return true;
}

void ControlPeer::Break(const absl::Status& reason) {
  if (Fail(reason)) {
    IfThereIsMemory([&] { on_failure_(reason); });
  }
  channel_->Shutdown();
}

void ControlPeer::ReadLoop() {
  while (true) {
    const absl::Status status = CatchOutOfMemory([this]() -> absl::Status {
      FERRITE_ASSIGN_OR_RETURN(Arrival arrival, ReadOne());
      return Dispatch(std::move(arrival));
    });
    if (!status.ok()) {
      Break(status);
      return;
    }
  }
}

absl::StatusOr<ControlPeer::Arrival> ControlPeer::ReadOne() {
  int64_t silence = silence_ms_.load();
  for (int64_t quiet = 0; quiet < silence; silence = silence_ms_.load()) {
    // Three PINGs at least in the time after which a silent peer counts as gone.
    const int64_t step = std::clamp<int64_t>(silence / 4, 1, kPingPauseMs);
    const MonotonicTime start = host_.clock.Now();
    absl::StatusOr<Arrival> arrival = channel_->Next(absl::Milliseconds(step));
    if (!absl::IsDeadlineExceeded(arrival.status())) {
      quiet_ = false;
      return arrival;
    }
    if (const int64_t waited = absl::ToInt64Milliseconds(host_.clock.Now() - start); waited > 0) {
      quiet += waited;
      quiet_ = quiet > step;
      if (const absl::Status sent = SendPing(); !sent.ok()) {
        return HearLastWords(sent);
      }
    }
  }
  return absl::UnavailableError(
      absl::StrCat(options_.peer_name, " was silent for ", absl::FormatDuration(absl::Milliseconds(silence))));
}

absl::Status ControlPeer::SendPing() {
  if (!send_mutex_.TryLock()) {
    return absl::OkStatus();
  }
  const absl::Status status =
      CatchOutOfMemory([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_) { return Write(message::Ping{}); });
  send_mutex_.Unlock();
  return status;
}

}  // namespace ferrite::migration
