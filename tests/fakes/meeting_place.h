// Where a real side of a move and a scripted one meet.
#ifndef FERRITE_TESTS_FAKES_MEETING_PLACE_H_
#define FERRITE_TESTS_FAKES_MEETING_PLACE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/fd.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/preamble.h"
#include "migration/secret/proof_bytes.h"
#include "migration/session/credentials.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_agreement.h"

namespace ferrite::migration {

// The memory of the machine of kScriptedMove, which is one region.
inline constexpr uint64_t kScriptedBytes = 4 << 20;
inline constexpr uint64_t kScriptedPages = kScriptedBytes / 4096;

// A unix socket in a directory of its own. Threads: any; Accept() and agreement() on one at a time.
class MeetingPlace {
 public:
  // `clock` is that of the real side, where a test moves it, and outlives the place.
  explicit MeetingPlace(FakeClock* clock = nullptr);
  ~MeetingPlace();
  MeetingPlace(const MeetingPlace&) = delete;
  MeetingPlace& operator=(const MeetingPlace&) = delete;

  const Address& address() const { return address_; }
  // Leaves the listening to a real destination; does not outlive the place. Once.
  std::unique_ptr<Listener> TakeListener() { return std::move(listener_); }

  // A connection over which nothing was said.
  std::unique_ptr<Stream> DialAndSayNothing();
  // One of kScriptedMove, which has said what it is, and nothing more.
  std::unique_ptr<Stream> DialAndSayWhat(ChannelRole role, uint16_t index = 0);
  // The same, which has proved it with `credentials`, and with what was agreed on where there are none.
  std::unique_ptr<Stream> Dial(ChannelRole role, uint64_t epoch = 0, const Credentials* credentials = nullptr);

  // The next connection, for a scripted destination; null after Close().
  std::unique_ptr<Stream> Accept();
  void Close() { closed_->Signal(); }
  bool closed() const;
  // Whether Accept() returns at once.
  bool HasCaller() const;

  FakeClock& clock() { return *clock_; }
  // The scripted side's, of the move that it spoke of last: it is still there in a recovery.
  ScriptedAgreement& agreement() { return agreement_; }
  const Credentials& credentials() const { return agreement_.credentials; }

 private:
  FakeClock* const clock_;
  std::string directory_;
  Address address_;
  std::unique_ptr<EventFd> closed_;
  std::unique_ptr<Listener> listener_;
  ScriptedAgreement agreement_;
};

// What the other side challenges a connection with; nothing when it is closed instead.
std::optional<Nonce> ReadChallenge(Stream& stream);

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_MEETING_PLACE_H_
