// What a scripted peer says and hears on a control channel: without threads or a mind of its own.
#ifndef FERRITE_TESTS_FAKES_SCRIPTED_PEER_H_
#define FERRITE_TESTS_FAKES_SCRIPTED_PEER_H_

#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {

inline absl::Status SendControl(Stream& stream, const Message& message) { return stream.WriteAll(Encode(message)); }

// The next message, whatever it is.
inline absl::StatusOr<Message> ReadAnyControl(Stream& stream) {
  std::array<uint8_t, kControlHeaderBytes> head;
  if (absl::Status status = stream.ReadAll(head); !status.ok()) {
    return status;
  }
  const auto header = DecodeControlHeader(head);
  if (!header.ok()) {
    return header.status();
  }
  std::vector<uint64_t> payload(header->length / sizeof(uint64_t));
  if (absl::Status status = stream.ReadAll({reinterpret_cast<uint8_t*>(payload.data()), header->length});
      !status.ok()) {
    return status;
  }
  return Decode(payload);
}

// The next message but PING and PONG.
inline absl::StatusOr<Message> ReadControl(Stream& stream) {
  while (true) {
    auto message = ReadAnyControl(stream);
    if (!message.ok() ||
        (!std::holds_alternative<message::Ping>(*message) && !std::holds_alternative<message::Pong>(*message))) {
      return message;
    }
  }
}

// Name of the next message ("WELCOME"), the words of an ERROR, or nothing when the connection ended.
inline std::string Hear(Stream& stream) {
  const auto message = ReadControl(stream);
  if (!message.ok()) {
    EXPECT_FALSE(absl::IsInvalidArgument(message.status())) << message.status();
    return "";
  }
  const auto* const error = std::get_if<message::Error>(&*message);
  return error != nullptr ? error->message : std::string(MessageName(*message));
}

// The next message, which is to be a `T`.
template <typename T>
T HearA(Stream& stream) {
  const auto message = ReadControl(stream);
  const auto* const due = message.ok() ? std::get_if<T>(&*message) : nullptr;
  if (due == nullptr) {
    ADD_FAILURE() << T::kName
                  << " was due, and not: " << (message.ok() ? MessageName(*message) : message.status().message());
    return {};
  }
  return *due;
}

// Until the other side has closed.
inline void ReadToTheEnd(Stream& stream) {
  while (ReadControl(stream).ok()) {
  }
}

// Shows that this side lives, until the other one has closed, or for `limit`.
inline void KeepAlive(Stream& stream, absl::Duration limit = absl::InfiniteDuration()) {
  const MonotonicTime start = MonotonicTime::Now();
  while (MonotonicTime::Now() - start < limit && SendControl(stream, message::Ping{}).ok()) {
    absl::SleepFor(absl::Milliseconds(20));
  }
}

// Lets time pass once `waiters` of the other side's threads wait, or it has closed.
inline void PassTime(Stream& stream, FakeClock& clock, absl::Duration time, size_t waiters = 1) {
  // Scripts talk over sockets.
  pollfd gone{.fd = dynamic_cast<SocketStream&>(stream).fd(), .events = POLLRDHUP, .revents = 0};
  while (clock.waiting() < waiters && poll(&gone, 1, 0) == 0) {
    sched_yield();
  }
  clock.Advance(time);
}

// As KeepAlive(), in the time of the other side's `clock`, which passes meanwhile, `step` after each word.
inline void LiveOn(Stream& stream, FakeClock& clock, absl::Duration step,
                   absl::Duration limit = absl::InfiniteDuration(), size_t waiters = 1) {
  const MonotonicTime start = clock.Now();
  while (clock.Now() - start < limit && SendControl(stream, message::Ping{}).ok()) {
    PassTime(stream, clock, step, waiters);
  }
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_SCRIPTED_PEER_H_
