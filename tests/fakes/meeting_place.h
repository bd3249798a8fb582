// Where a real side of a move and a scripted one meet.
#ifndef FERRITE_TESTS_FAKES_MEETING_PLACE_H_
#define FERRITE_TESTS_FAKES_MEETING_PLACE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/fd.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/preamble.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {

// The move that scripted peers speak of.
inline constexpr MoveId kScriptedMove = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

// The memory of its machine, which is one region.
inline constexpr uint64_t kScriptedBytes = 4 << 20;
inline constexpr uint64_t kScriptedPages = kScriptedBytes / 4096;

// A unix socket in a directory of its own. Threads: any; Accept() on one at a time.
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
  // One of kScriptedMove, which has said what it is.
  std::unique_ptr<Stream> Dial(ChannelRole role);

  // The next connection, for a scripted destination; null after Close().
  std::unique_ptr<Stream> Accept();
  void Close() { closed_->Signal(); }
  bool closed() const;
  // Whether Accept() returns at once.
  bool HasCaller() const;

  FakeClock& clock() { return *clock_; }

 private:
  FakeClock* const clock_;
  std::string directory_;
  Address address_;
  std::unique_ptr<EventFd> closed_;
  std::unique_ptr<Listener> listener_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_MEETING_PLACE_H_
