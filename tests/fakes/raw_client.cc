#include "tests/fakes/raw_client.h"

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <vector>

#include "base/status.h"
#include "base/unix_socket.h"
#include "proto/control.capnp.h"

namespace ferrite {
namespace {

// The order of the methods in proto/control.capnp.
constexpr uint16_t kDescribe = 0;
constexpr uint16_t kPause = 1;
constexpr uint16_t kStop = 4;
constexpr uint16_t kSetBalloon = 6;

constexpr size_t kMaxAnswerWords = 8192;

void Send(const Fd& fd, capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const kj::ArrayPtr<const kj::byte> bytes = words.asBytes();
  for (size_t sent = 0; fd.valid() && sent < bytes.size();) {
    const ssize_t n = send(fd.get(), bytes.begin() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return;  // dropped: NextAnswer() shows it
    }
    sent += static_cast<size_t>(n);
  }
}

}  // namespace

RawClient::RawClient(const std::string& socket_path) {
  auto fd = ConnectToUnixSocket(socket_path);
  if (!fd.ok()) {
    return;
  }
  fd_ = *std::move(fd);
  capnp::MallocMessageBuilder message;
  message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(0);
  Send(fd_, message);
}

template <typename Fill>
uint32_t RawClient::Call(uint16_t method, Fill fill) {
  capnp::MallocMessageBuilder message;
  auto call = message.initRoot<capnp::rpc::Message>().initCall();
  call.setQuestionId(next_number_);
  call.initTarget().initPromisedAnswer().setQuestionId(0);
  call.setInterfaceId(capnp::typeId<control::Control>());
  call.setMethodId(method);
  fill(call.initParams().getContent());
  Send(fd_, message);
  return next_number_++;
}

uint32_t RawClient::SetBalloon(uint64_t target_bytes, uint32_t wait_ms) {
  return Call(kSetBalloon, [&](capnp::AnyPointer::Builder content) {
    auto params = content.initAs<control::Control::SetBalloonParams>();
    params.setTargetBytes(target_bytes);
    params.setWaitMs(wait_ms);
  });
}

uint32_t RawClient::Pause() {
  return Call(kPause, [](capnp::AnyPointer::Builder content) { content.initAs<control::Control::PauseParams>(); });
}

uint32_t RawClient::Stop() {
  return Call(kStop, [](capnp::AnyPointer::Builder content) { content.initAs<control::Control::StopParams>(); });
}

void RawClient::GiveUp(uint32_t number) {
  capnp::MallocMessageBuilder message;
  message.initRoot<capnp::rpc::Message>().initFinish().setQuestionId(number);
  Send(fd_, message);
}

uint32_t RawClient::Describe() {
  describes_.insert(next_number_);
  return Call(kDescribe,
              [](capnp::AnyPointer::Builder content) { content.initAs<control::Control::DescribeParams>(); });
}

bool RawClient::ReadBytes(void* out, size_t size, MonotonicTime deadline) {
  auto* at = static_cast<uint8_t*>(out);
  while (size > 0) {
    const absl::Duration left = deadline - MonotonicTime::Now();
    pollfd polled = {fd_.get(), POLLIN, 0};
    if (left <= absl::ZeroDuration() || poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) != 1) {
      return false;
    }
    const ssize_t n = recv(fd_.get(), at, size, 0);
    if (n <= 0) {
      return false;
    }
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

std::optional<RawClient::Answer> RawClient::NextAnswer(MonotonicTime deadline) {
  while (fd_.valid()) {
    // The frame: the number of segments less one, their sizes in words, filled up to a whole word.
    uint32_t count = 0;
    if (!ReadBytes(&count, sizeof(count), deadline)) {
      return std::nullopt;
    }
    FERRITE_CHECK(count < 16);
    std::vector<uint32_t> sizes(count + 1 + (count % 2 == 0 ? 0 : 1));
    if (!ReadBytes(sizes.data(), sizes.size() * sizeof(uint32_t), deadline)) {
      return std::nullopt;
    }
    size_t words = 0;
    for (uint32_t i = 0; i <= count; ++i) {
      words += sizes[i];
    }
    FERRITE_CHECK(words <= kMaxAnswerWords);
    std::vector<capnp::word> body(words);
    if (!ReadBytes(body.data(), words * sizeof(capnp::word), deadline)) {
      return std::nullopt;
    }
    std::vector<kj::ArrayPtr<const capnp::word>> segments;
    size_t offset = 0;
    for (uint32_t i = 0; i <= count; ++i) {
      segments.emplace_back(body.data() + offset, sizes[i]);
      offset += sizes[i];
    }
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments.data(), segments.size()));
    const auto message = reader.getRoot<capnp::rpc::Message>();
    if (message.which() != capnp::rpc::Message::RETURN || message.getReturn().getAnswerId() == 0) {
      continue;
    }
    const auto answer = message.getReturn();
    if (answer.isCanceled()) {
      continue;
    }
    if (!answer.isResults()) {
      return Answer{answer.getAnswerId(), absl::UnknownError("no results")};
    }
    if (describes_.count(answer.getAnswerId()) > 0) {
      return Answer{answer.getAnswerId(), absl::OkStatus()};
    }
    // All results that have an error have it first.
    const auto content = answer.getResults().getContent();
    const auto results = content.getAs<control::Control::SetBalloonResults>();
    const auto error = results.getError();
    return Answer{answer.getAnswerId(),
                  absl::Status(static_cast<absl::StatusCode>(error.getCode()), std::string(error.getMessage().cStr()))};
  }
  return std::nullopt;
}

}  // namespace ferrite
