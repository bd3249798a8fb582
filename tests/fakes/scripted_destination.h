// A destination that does what a test tells it.
#ifndef FERRITE_TESTS_FAKES_SCRIPTED_DESTINATION_H_
#define FERRITE_TESTS_FAKES_SCRIPTED_DESTINATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/thread.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "tests/fakes/meeting_place.h"

namespace ferrite::migration {

// What a connection says first; nothing when it ends instead, or says something else. One that has to prove that it
// belongs to the move of `place` is challenged, and does.
std::optional<Preamble> ReadPreamble(MeetingPlace& place, Stream& stream);

// Hears HELLO, says WELCOME, and hears MACHINE. What was agreed on is the place's.
void Welcome(MeetingPlace& place, Stream& control, uint64_t features = kFeaturePostcopy | kFeaturePoison);
// The same, and says ACCEPT.
void Accept(MeetingPlace& place, Stream& control, uint64_t host_page, bool postcopy,
            uint64_t features = kFeaturePostcopy | kFeaturePoison);
// The next page and urgent channels, of one page channel; those that do not come are missing.
struct ScriptedChannels {
  std::unique_ptr<Stream> page;
  std::vector<std::unique_ptr<Stream>> urgent;
};
ScriptedChannels AcceptChannels(MeetingPlace& place);
void SendOpened(MeetingPlace& place, Stream& control, uint64_t epoch = 0);

// Behaves until READY; what comes then is the test's. For one page channel. Threads: the test's, or one that acts as
// the destination.
class ScriptedDestination {
 public:
  struct Options {
    uint64_t load_nanoseconds = 0;  // what READY says
    uint64_t features = kFeaturePostcopy | kFeaturePoison;
    uint64_t host_page = 4096;  // bytes
  };
  // Over a control connection that has said what it is; the others come to `place`.
  ScriptedDestination(MeetingPlace& place, Stream& control, const Options& options);
  ScriptedDestination(MeetingPlace& place, Stream& control) : ScriptedDestination(place, control, Options{}) {}

  // Takes the rounds of a pre-copy, until the source asks whether they have arrived: what comes then is the last.
  void AwaitSwitchover();
  // Whether it came.
  [[nodiscard]] bool AwaitPackage();
  // As AwaitPackage(), and up to GRANT. From LOADED on the page channel is read, and what comes is lost.
  [[nodiscard]] bool AwaitGrant();
  // Reads the page channel from now on, to its end.
  void LosePages();
  void Request(const PageHeader& header);
  // Of the control and the page channel.
  void HangUp();

  std::unique_ptr<Stream> page;
  std::vector<std::unique_ptr<Stream>> urgent;

 private:
  Stream& control_;
  Thread losing_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_SCRIPTED_DESTINATION_H_
