// A real source with its guest, and the place where a test acts as its destination.
#ifndef FERRITE_TESTS_FAKES_DEPARTURE_RIG_H_
#define FERRITE_TESTS_FAKES_DEPARTURE_RIG_H_

#include <atomic>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "memory/guest_memory.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/stream.h"
#include "migration/session/source.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/meeting_place.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {

// What acts as a destination over a control connection that has said what it is; the others come to the place.
using DestinationScript = std::function<void(MeetingPlace&, Stream& control)>;

// The guest runs from the start, in memory of kScriptedBytes. Threads: the test's.
class DepartureRig {
 public:
  // With a `clock` the source goes by that, which passes while it waits and no script acts; it outlives the rig.
  explicit DepartureRig(const FakeGuestWork& work, FakeClock* clock = nullptr);

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
  // How long its Run() took, by its clock.
  absl::Duration took() const { return took_; }

 private:
  // Until a connection comes, or the place is closed.
  void PassTime(const MeetingPlace& place, bool comes_again);

  FakeClock* const clock_;
  const TestHost host_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<FakeSourcePort> port_;
  std::unique_ptr<Source> source_;
  std::atomic<const Source*> running_{nullptr};  // for the thread that acts as its destination
  absl::Duration took_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_DEPARTURE_RIG_H_
