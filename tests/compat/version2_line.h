// The connections of a peer that speaks version 2: unix or tcp, plain or over TLS, and the control messages on one.
#ifndef FERRITE_TESTS_COMPAT_VERSION2_LINE_H_
#define FERRITE_TESTS_COMPAT_VERSION2_LINE_H_

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "tests/compat/version2.capnp.h"
#include "tests/compat/version2_bytes.h"

struct ssl_ctx_st;
struct ssl_st;

namespace ferrite::version2 {

// A TLS side, of the files in a directory as --tls-dir has them.
class Tls {
 public:
  enum class Side { kSource, kDestination };
  // The destination's certificate has to be for "localhost". A failure ends the process.
  Tls(const std::string& directory, Side side);
  ~Tls();

  ssl_st* NewConnection() const;

 private:
  const Side side_;
  ssl_ctx_st* const context_;
};

// One connection. Whoever waits on it waits for half a minute at most.
//
// Threads: one; Wake() from any.
class Line {
 public:
  // `tls` may be null; `is_source`: this side opened it.
  static absl::StatusOr<std::unique_ptr<Line>> Create(Fd socket, const Tls* tls, bool is_source);
  ~Line();

  absl::Status Write(std::span<const uint8_t> bytes);
  absl::Status Read(std::span<uint8_t> out);
  // False: it has ended, in order, before the first byte.
  absl::StatusOr<bool> ReadUnlessEnded(std::span<uint8_t> out);
  // Who reads, and whoever does from now on, finds the end.
  void Wake();

  // What stands for a nonce of the destination's in what is proved.
  Bytes32 Bind(const Bytes32& nonce) const;
  // The other side's certificate; empty in plain.
  const std::string& party() const { return party_; }

 private:
  Line(Fd socket, ssl_st* ssl) : socket_(std::move(socket)), ssl_(ssl) {}

  const Fd socket_;
  ssl_st* const ssl_;  // null in plain
  std::string party_;
};

// Where connections are made to, and waited for: "unix:PATH" or "tcp:127.0.0.1:PORT", of port 0 a free one.
absl::StatusOr<std::unique_ptr<Line>> Dial(absl::string_view address, const Tls* tls);
class Listener {
 public:
  static absl::StatusOr<std::unique_ptr<Listener>> Create(absl::string_view address);
  const std::string& address() const { return address_; }
  absl::StatusOr<std::unique_ptr<Line>> Accept(const Tls* tls);

 private:
  Listener(Fd socket, std::string address) : socket_(std::move(socket)), address_(std::move(address)) {}

  const Fd socket_;
  const std::string address_;
};

// A message as it came.
class Heard {
 public:
  // INVALID_ARGUMENT for what is malformed, or no message of version 2.
  static absl::StatusOr<Heard> Decode(std::span<const uint8_t> payload);
  Control::Reader message() const { return reader_->getRoot<Control>(); }

 private:
  kj::Array<capnp::word> words_;
  std::unique_ptr<capnp::FlatArrayMessageReader> reader_;
};

using Fill = std::function<void(Control::Builder)>;
// A whole frame.
Bytes FrameOf(const Fill& fill);

// The messages of a control connection. PINGs are answered while something else is waited for. Threads: one.
class Talk {
 public:
  explicit Talk(std::unique_ptr<Line> line) : line_(std::move(line)) {}

  Line& line() { return *line_; }
  // Of what is heard from now on.
  void SetMostBytes(uint32_t most) { most_ = most; }
  absl::Status Say(const Fill& fill);
  // The next message but PING and PONG. ABORTED, with its words, when it is REFUSE, ERROR or CANCEL.
  absl::StatusOr<Heard> Hear();
  // The same, which is to be that one.
  absl::StatusOr<Heard> Hear(Control::Which due);
  // That nothing more comes but the end.
  absl::Status HearEnd();

 private:
  // Nothing at the end.
  absl::StatusOr<std::optional<Heard>> Next();

  const std::unique_ptr<Line> line_;
  uint32_t most_ = kMostBytes;
};

// A key, a nonce, a digest or an id: an error unless it has the length that it should have.
template <size_t kSize>
absl::Status Get(capnp::Data::Reader in, std::array<uint8_t, kSize>& out) {
  if (in.size() != kSize) {
    return absl::InvalidArgumentError("a field has the wrong number of bytes");
  }
  std::copy(in.begin(), in.end(), out.begin());
  return absl::OkStatus();
}
inline capnp::Data::Reader DataOf(std::span<const uint8_t> bytes) { return {bytes.data(), bytes.size()}; }

}  // namespace ferrite::version2

#endif  // FERRITE_TESTS_COMPAT_VERSION2_LINE_H_
