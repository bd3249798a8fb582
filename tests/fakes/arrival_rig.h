// A real destination, and the place where a test acts as whoever comes to it.
#ifndef FERRITE_TESTS_FAKES_ARRIVAL_RIG_H_
#define FERRITE_TESTS_FAKES_ARRIVAL_RIG_H_

#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/thread.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/destination.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/meeting_place.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {

// The destination has a thread of its own, from Start() to Join(). Threads: the test's.
class ArrivalRig {
 public:
  // `clock` is the destination's, and outlives the rig.
  explicit ArrivalRig(const Destination::Options& options, const Clock& clock = RealClock(),
                      MemoryBacking backing = MemoryBacking::kMemfd);
  // A destination that still runs (the test failed) is ended.
  ~ArrivalRig();

  // Of what the destination makes: what is to go wrong there is set before Start().
  FakeDestination& there() { return there_; }
  const KeptLog& log() const { return host_.log(); }
  void Start();
  MeetingPlace& place() { return place_; }
  Destination& session() { return *session_; }

  // Waits until the destination has ended; returns how.
  absl::Status Join();
  // The same, and makes it: it has no guest yet.
  absl::Status Cancel();

 private:
  TestHost host_;
  MeetingPlace place_;
  FakeDestination there_;
  const std::unique_ptr<ChannelAcceptor> acceptor_;
  std::unique_ptr<Destination> session_;
  absl::Status result_;  // of Run(), once receiver_ was joined
  Thread receiver_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_ARRIVAL_RIG_H_
