// A real source with its guest, and the place where a test acts as its destination.
#ifndef FERRITE_TESTS_FAKES_DEPARTURE_RIG_H_
#define FERRITE_TESTS_FAKES_DEPARTURE_RIG_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "memory/guest_memory.h"
#include "migration/api/move_options.h"
#include "migration/channel/stream.h"
#include "migration/session/source.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/meeting_place.h"

namespace ferrite::migration {

// What acts as a destination over a control connection that has said what it is; the others come to the place.
using DestinationScript = std::function<void(MeetingPlace&, Stream& control)>;

// The guest runs from the start, in memory of kScriptedBytes. Threads: the test's.
class DepartureRig {
 public:
  explicit DepartureRig(const FakeGuestWork& work);

  FakeGuest& guest() { return *guest_; }
  FakeSourcePort& port() { return *port_; }

  // One try, with a source of its own, which is source() from then on. Returns what its Run() did.
  absl::Status MoveTo(const MeetingPlace& there, const MoveOptions& options);
  // The same to a scripted destination: `first` acts over the control connection that comes first, on a thread of its
  // own, and `again` (may be null: nobody is there any more) over each that comes later.
  absl::Status MoveTo(const DestinationScript& first, const DestinationScript& again, const MoveOptions& options);
  absl::Status MoveTo(const DestinationScript& only, const MoveOptions& options) {
    return MoveTo(only, nullptr, options);
  }

  Source& source() { return *source_; }
  // How long its Run() took.
  absl::Duration took() const { return took_; }

 private:
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<FakeSourcePort> port_;
  std::unique_ptr<Source> source_;
  absl::Duration took_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_DEPARTURE_RIG_H_
