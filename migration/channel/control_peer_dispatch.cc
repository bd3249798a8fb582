// What the other side of a ControlPeer has said, and who takes it.
#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/status.h"
#include "base/timed_mutex.h"
#include "migration/channel/control_peer.h"

namespace ferrite::migration {
namespace {

// A peer that sends what nobody waits for is stopped before it fills our memory.
constexpr size_t kMaxQueued = 256;
constexpr size_t kMaxQueuedMessages = 2;  // of the largest size

}  // namespace

void ControlPeer::SetOnBroken(OnBroken on_broken) {
  absl::Status status;
  {
    // None comes between those that wait and those of the reading thread.
    const absl::MutexLock lock(&broken_mutex_);
    on_broken_.swap(on_broken);
    while (on_broken_ && status.ok()) {
      const std::optional<message::Broken> broken = TakeBroken();
      if (!broken.has_value()) {
        break;
      }
      status = on_broken_(*broken);
    }
  }
  if (!status.ok()) {
    Break(status);
  }
}

std::optional<message::Broken> ControlPeer::TakeBroken() {
  const TimedMutexLock lock(&mutex_);
  const auto is_broken = [](const Arrival& arrival) {
    return arrival.message.ok() && std::holds_alternative<message::Broken>(*arrival.message);
  };
  const auto found = std::find_if(queue_.begin(), queue_.end(), is_broken);
  if (found == queue_.end()) {
    return std::nullopt;
  }
  message::Broken broken = std::get<message::Broken>(*std::move(found->message));
  queued_bytes_ -= found->bytes;
  queue_.erase(found);
  return broken;
}

absl::Status ControlPeer::Dispatch(Arrival arrival) {
  if (arrival.message.ok()) {
    const Message& message = *arrival.message;
    if (const auto* const ping = std::get_if<message::Ping>(&message); ping != nullptr) {
      const absl::Status answered = Send(message::Pong{.token = ping->token});
      return answered.ok() ? answered : HearLastWords(answered);
    }
    if (std::holds_alternative<message::Pong>(message)) {
      return absl::OkStatus();
    }
    if (const auto* const refuse = std::get_if<message::Refuse>(&message); refuse != nullptr) {
      refused_.store(true, std::memory_order_release);
      said_why_.store(true, std::memory_order_release);
      return absl::FailedPreconditionError(absl::StrCat(options_.peer_name, " refuses: ", CleanText(refuse->reason)));
    }
    if (const auto* const cancel = std::get_if<message::Cancel>(&message); cancel != nullptr) {
      said_why_.store(true, std::memory_order_release);
      return absl::CancelledError(absl::StrCat(options_.peer_name, " says: ", CleanText(cancel->message)));
    }
    if (const auto* const error = std::get_if<message::Error>(&message); error != nullptr) {
      said_why_.store(true, std::memory_order_release);
      return absl::AbortedError(absl::StrCat(options_.peer_name, " says: ", CleanText(error->message)));
    }
  }
  if (const auto* const broken = arrival.message.ok() ? std::get_if<message::Broken>(&*arrival.message) : nullptr) {
    const absl::MutexLock lock(&broken_mutex_);
    if (on_broken_) {
      return on_broken_(*broken);
    }
    FERRITE_RETURN_IF_ERROR(Queue(std::move(arrival)));
  } else {
    FERRITE_RETURN_IF_ERROR(Queue(std::move(arrival)));
  }
  return options_.on_message ? options_.on_message() : absl::OkStatus();
}

absl::Status ControlPeer::HearLastWords(const absl::Status& why) {
  for (size_t i = 0; i < kMaxQueued; ++i) {
    absl::StatusOr<Arrival> arrival = channel_->Next(absl::ZeroDuration());
    if (!arrival.ok()) {
      break;
    }
    if (!arrival->message.ok() || !std::holds_alternative<message::Ping>(*arrival->message)) {
      FERRITE_RETURN_IF_ERROR(Dispatch(*std::move(arrival)));
    }
  }
  return why;
}

absl::Status ControlPeer::Queue(Arrival arrival) {
  const TimedMutexLock lock(&mutex_);
  queued_bytes_ += arrival.bytes;
  if (queue_.size() >= kMaxQueued || queued_bytes_ > kMaxQueuedMessages * most_bytes_.load()) {
    return absl::ResourceExhaustedError(absl::StrCat(options_.peer_name, " sends messages that nobody waits for"));
  }
  queue_.push_back(std::move(arrival));
  return absl::OkStatus();
}

}  // namespace ferrite::migration
