// A move between two fake machines in one process, over real sockets or a pair.
#ifndef FERRITE_TESTS_MIGRATION_MOVE_HARNESS_H_
#define FERRITE_TESTS_MIGRATION_MOVE_HARNESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/thread_maker.h"
#include "migration/api/move_options.h"
#include "migration/api/rdma_options.h"
#include "migration/channel/pair/pair_rendezvous.h"
#include "migration/channel/rdma/rdma_rendezvous.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/session/destination.h"
#include "migration/session/source.h"
#include "tests/fakes/cut_verbs.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/relay.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/tls_place.h"
#include "tests/migration/landing.h"

namespace ferrite::migration {

// Whether FERRITE_TLS is set: then all moves over sockets are over TLS, so that a suite runs on both.
bool IsTlsWanted();
// The same of FERRITE_RDMA: queue pairs are beside them.
bool IsRdmaWanted();
// The address of a device that they are of, from FERRITE_TEST_RDMA; empty for a fabric.
std::string RdmaDevice();

// ForEachAtOnce(); where FERRITE_EVERY is set, of one case in so many.
void ForEachCase(uint64_t count, const std::function<void(uint64_t)>& play);
bool IsEachCasePlayed();

struct FakeMoveSetup {
  uint64_t bytes = uint64_t{64} << 20;
  MemoryBacking source_backing = MemoryBacking::kMemfd;
  const Landing* landing = nullptr;  // at the destination; none: LandingOfTest()
  uint64_t landing_bytes = 0;        // that the host is to have what it asks for, if not `bytes`
  FakeGuestWork work{.first_page = 256, .pages = 8192, .random = true};
  bool tcp = false;
  bool pair = false;           // no socket: within the process
  bool handed_in = false;      // over sockets that somebody else connects; for moves that go well
  bool tls = IsTlsWanted();    // over the sockets
  bool rdma = IsRdmaWanted();  // beside the sockets, but for those that are handed in
  RdmaOptions rdma_options{.chunk_bytes = kLeastRdmaChunk};
  bool relay = false;                                            // the move goes through FakeMove::relay()
  const Host& host = AnyHost();                                  // of both sides
  std::function<PairRendezvous(PairRendezvous)> wrap = nullptr;  // decorates where they meet
};

struct FakeMoveResult {
  absl::Status source;
  absl::Status destination;
  MoveState source_state = MoveState::kNone;
  MoveState destination_state = MoveState::kNone;
  MoveReport report;
};

// The guest runs from the start. Where the host cannot be made to give what a landing asks for, a move fails; who
// chooses one looks at LandingHost before. Threads: the test's.
class FakeMove {
 public:
  explicit FakeMove(const FakeMoveSetup& setup);
  ~FakeMove();

  FakeGuest& source_guest() { return *guest_; }
  FakeSourcePort& port() { return *port_; }
  FakeDestination& destination() { return *destination_; }
  GuestMemory& memory() { return *memory_; }
  // While a move is on.
  Relay& relay() { return *relay_; }
  // Where the queue pairs are, if it is over that; and breaks them, if they are a device's.
  RdmaFabric& fabric() { return *fabric_; }
  CutVerbs& device() { return *device_; }
  // Of the source, over what the move goes.
  std::shared_ptr<ChannelOpener> OpenerAt(const Address& address, const Clock& clock = RealClock()) const;
  Destination& session() { return *session_; }
  // Of a move over TLS: certificates of another CA for both sides, in the place of those that were there.
  void RenewCertificates();

  // The end of the destination's session, which may hold a guest that misses pages.
  void EndSession() { session_.reset(); }
  // One try; may be called again after one that failed. `during` is called with the source's session as it makes
  // progress; `afterwards` when its Run() returned, and may go on with it: its Status is the move's then.
  FakeMoveResult Move(const MoveOptions& options,
                      const std::function<void(Source&, const MoveProgress&)>& during = nullptr,
                      const std::function<absl::Status(Source&, const absl::Status&)>& afterwards = nullptr);

 private:
  Verbs* verbs() const;
  // A new place for the two sides.
  PairRendezvous Meet();

  const FakeMoveSetup setup_;
  const Landing& landing_;
  const LandingHost landing_host_;
  std::string directory_;
  std::unique_ptr<TlsPlace> tls_;       // if it is over that
  std::unique_ptr<RdmaFabric> fabric_;  // likewise
  ThreadMaker threads_;
  std::unique_ptr<CutVerbs> device_;  // in its place
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<FakeSourcePort> port_;
  std::unique_ptr<FakeDestination> destination_;
  std::unique_ptr<Relay> relay_;
  std::unique_ptr<Destination> session_;
};

// R2, R3: after a move the guest runs in one place, of which both sides know. It is paused then, as below.
void ExpectOneRunner(FakeMove& move, const FakeMoveResult& result, uint64_t steps);
// The same of a move that succeeded: at the destination.
void ExpectArrived(FakeMove& move, const FakeMoveResult& result, uint64_t steps);
// R1: the guest runs, makes so many more steps, each of which checks a page, and has all its memory. It is paused then.
void ExpectGuestGoesOn(FakeGuest& guest, uint64_t steps);

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_MIGRATION_MOVE_HARNESS_H_
