// A source that does what a test tells it.
#ifndef FERRITE_TESTS_FAKES_SCRIPTED_SOURCE_H_
#define FERRITE_TESTS_FAKES_SCRIPTED_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "migration/channel/socket/stream.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/meeting_place.h"
#include "tests/fakes/scripted_agreement.h"

namespace ferrite::migration {

// Where its guest works.
inline constexpr FakeGuestWork kScriptedWork{.first_page = 100, .pages = 20};

// The state of its guest, which has not run yet: its pages are zeroes.
std::vector<uint8_t> StateOfScriptedGuest();

// HELLO as nobody says it any more.
void SendOldHello(Stream& control);
// By what was agreed on at `place`, as all that is proved here.
void SendMachine(MeetingPlace& place, Stream& control);
// Hears ACCEPT and OPENED, and that they are the destination's.
void HearAccept(MeetingPlace& place, Stream& control);
void HearOpened(MeetingPlace& place, Stream& control, uint64_t epoch = 0);
void SendRecover(Stream& control, uint64_t epoch, uint16_t page_channels);

// A control connection that said HELLO and was welcomed.
std::unique_ptr<Stream> DialAndGetWelcome(MeetingPlace& place, uint64_t features = 0);

// Speaks the protocol up to READY, with one page channel and one urgent channel; what comes then is the test's.
// Threads: the test's.
class ScriptedSource {
 public:
  explicit ScriptedSource(MeetingPlace& place, uint64_t features = 0);

  // The header, and `bytes` bytes whatever it says.
  void SendPages(const PageHeader& header, size_t bytes);
  // A whole frame, each byte of its pages being `byte`.
  static void SendPages(Stream& stream, const PageHeader& header, uint8_t byte);
  // A header that no bytes follow.
  void SendFrame(const PageHeader& header);
  void SendZero(uint64_t first_page, uint64_t count);
  // Over both channels.
  void SendRound(uint32_t number, bool last);
  void SendGrant(uint64_t epoch);
  // The length and the checksum may be wrong.
  void SendPackage(const std::vector<uint8_t>& blob, uint64_t length, uint32_t crc, bool postcopy);
  // They are right.
  void SendPackage(const std::vector<uint8_t>& blob, bool postcopy);

  // From the last round to RUNNING. Whether the destination says what it should.
  [[nodiscard]] bool HandOver(uint64_t epoch, bool postcopy = true);
  // All pages were sent.
  void SendEndOfPages();

  std::unique_ptr<Stream> control;
  std::unique_ptr<Stream> page;
  std::unique_ptr<Stream> urgent;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_SCRIPTED_SOURCE_H_
