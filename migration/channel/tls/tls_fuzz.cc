// What comes off the wire of a TLS connection (R11): before its handshake and in it, from bytes that anyone may send,
// and after it, from somebody who has the keys and says what he likes, in records or not.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/channel/tls/tls_files.h"
#include "migration/secret/proof_bytes.h"
#include "tests/fakes/tls_pair.h"
#include "tests/fakes/tls_place.h"

namespace {

using namespace ferrite;             // NOLINT(google-build-using-namespace)
using namespace ferrite::migration;  // NOLINT(google-build-using-namespace)

// Made once: keys are slow.
struct Sides {
  TlsPlace place;
  std::shared_ptr<StreamSecurity> source = place.source();
  std::shared_ptr<StreamSecurity> destination = place.destination();
};

Sides& TheSides() {
  static Sides* const kSides = new Sides;
  return *kSides;
}

void Say(int fd, std::span<const uint8_t> bytes) {
  (void)send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Takes pages nowhere.
class NoPages final : public PageHandler {
 public:
  absl::Status Begin(const PageHeader& /*header*/) override { return absl::OkStatus(); }
  absl::StatusOr<Target> NextTarget(const PageRange& rest) override { return Target{.pages = rest.count, .bytes = {}}; }
  absl::Status Wrong(const PageRange& /*page*/) override { return absl::OkStatus(); }
  absl::Status Gone(const PageRange& /*page*/) override { return absl::OkStatus(); }
  absl::Status Filled(const PageRange& /*run*/) override { return absl::OkStatus(); }
  absl::StatusOr<uint64_t> Zero(const PageRange& rest) override { return rest.count; }
  absl::StatusOr<uint64_t> Lost(const PageRange& rest) override { return rest.count; }
};

// Bytes in the place of a hello, of either side.
void Before(StreamSecurity& side, std::span<const uint8_t> bytes) {
  auto ends = *MakeStreamPair();
  const auto handshake = *side.Start(std::move(ends.second));
  Say(ends.first->fd(), bytes);
  for (int i = 0; i < 4; ++i) {
    if (const auto step = handshake->Step(); !step.ok()) {
      return;
    } else if (*step != nullptr) {
      __builtin_trap();  // nobody has the key
    }
  }
}

// A handshake in which what one side says is changed: at a place and to a value that the input says.
void Within(std::span<const uint8_t> bytes) {
  auto front = *MakeStreamPair();
  auto back = *MakeStreamPair();
  const auto source = *TheSides().source->Start(std::move(front.first));
  const auto destination = *TheSides().destination->Start(std::move(back.second));
  std::unique_ptr<Stream> one, two;
  std::array<uint8_t, 16384> piece;
  size_t passed = 0;
  const size_t at = bytes.size() > 2 ? bytes[0] << 8 | bytes[1] : 0;
  const auto pass = [&](SocketStream& from, SocketStream& to) {
    const auto n = from.ReadSome(piece);
    const size_t got = n.ok() ? *n : 0;
    for (size_t i = 0; i + 2 < bytes.size() && bytes.size() > 2; ++i) {
      if (const size_t place = at % 4096 + i; place >= passed && place < passed + got) {
        piece[place - passed] = bytes[2 + i];
      }
    }
    passed += got;
    Say(to.fd(), std::span(piece).first(got));
  };
  const auto step = [](Handshake& handshake, std::unique_ptr<Stream>& stream) {
    if (stream != nullptr) {
      return true;
    }
    auto next = handshake.Step();
    if (next.ok()) {
      stream = *std::move(next);
    }
    return next.ok();
  };
  for (int i = 0; i < 8 && (one == nullptr || two == nullptr); ++i) {
    if (!step(*source, one)) {
      return;
    }
    pass(*front.second, *back.first);
    if (!step(*destination, two)) {
      return;
    }
    pass(*back.first, *front.second);
  }
  // A record's version is nobody's affair. All else is signed: who is through has the keys of the other one.
  if (one != nullptr && two != nullptr && *one->Bind(Nonce{1}) != *two->Bind(Nonce{1})) {
    __builtin_trap();
  }
}

// In records that are right: what the channels make of it.
void After(std::span<const uint8_t> bytes, bool in_records) {
  TlsPair pair = ShakeHands(*TheSides().source, *TheSides().destination);
  if (!pair.source.ok() || !pair.destination.ok()) {
    __builtin_trap();
  }
  (*pair.destination)->SetPatience(absl::Milliseconds(1));
  if (in_records) {
    (void)(*pair.source)->WriteAll(bytes);
    pair.source->reset();
  } else {
    Say((*pair.source)->fd(), bytes);
    (void)shutdown((*pair.source)->fd(), SHUT_WR);
  }
  if (!bytes.empty() && bytes.back() % 2 == 0) {
    StreamControlChannel control(*std::move(pair.destination), RealClock());
    while (control.Next(absl::ZeroDuration()).ok()) {
    }
    return;
  }
  StreamPageFeed feed(*std::move(pair.destination));
  NoPages none;
  while (feed.Next(none).ok()) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> bytes(data, size);
  (void)ParsePreSharedKeys({reinterpret_cast<const char*>(data), size});
  Before(*TheSides().destination, bytes);
  Before(*TheSides().source, bytes);
  if (!bytes.empty()) {
    switch (bytes[0] % 4) {
      case 0:
        Within(bytes.subspan(1));
        break;
      case 1:
        After(bytes.subspan(1), /*in_records=*/true);
        break;
      case 2:
        After(bytes.subspan(1), /*in_records=*/false);
        break;
      default:
        break;
    }
  }
  return 0;
}
