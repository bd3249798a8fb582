// Queue pairs within one process, for tests of what stands on migration/channel/rdma/verbs.h: keeps to its contract,
// and holds back, reorders, counts and fails as a test wants it.
#ifndef FERRITE_TESTS_FAKES_RDMA_FABRIC_H_
#define FERRITE_TESTS_FAKES_RDMA_FABRIC_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "migration/channel/rdma/verbs.h"
#include "tests/fakes/rdma_wire.h"

namespace ferrite::migration {
namespace internal {
class RdmaPorts;
}

// One network with one device, which each domain has for itself. An end of a move is told by how it opened its domain:
// kHere is the destination, kThere the source. A connection has a number: how many were made before it.
//
// Work is done by whoever posts it, or releases it; the work of one queue pair in its order, but for reordered WRITEs.
// Bytes are read and written when the work is done, not when it is posted: who changes memory under way sees it.
// Memory is allocated as it is registered, and of what is written to a page that went since then (a hole that was
// punched, MADV_DONTNEED) nothing arrives, as on a device, which has the page that was there. A queue pair that is
// destroyed breaks the other one, as DISCONNECTED does; one that is broken does not: who posts to it finds out.
//
// What it says and is told outlives it. Threads: any.
class RdmaFabric final : public Verbs {
 public:
  using End = Verbs::End;

  // `clock` outlives all that is made with it.
  explicit RdmaFabric(const Clock& clock = RealClock());

  absl::StatusOr<std::shared_ptr<VerbsDomain>> Open(absl::string_view host, End end, MonotonicTime deadline,
                                                    const EventFd& cancel) override;
  absl::StatusOr<std::vector<VerbsDevice>> Devices() override;

  // At most so many bytes are registered at an end at once; more is RESOURCE_EXHAUSTED.
  void LimitRegistered(End end, uint64_t bytes) { wire_->LimitRegistered(end, bytes); }
  // The call of that kind at that end fails, once, when so many more went well. A post, and the work it asks for,
  // breaks its queue pair.
  using Call = RdmaWire::Call;
  void FailAfter(Call call, End end, uint64_t good) { wire_->FailAfter(call, end, good); }
  // The same of all calls together, of both ends.
  void FailStepAfter(uint64_t good) { wire_->FailStepAfter(good); }
  // Calls that there were.
  uint64_t steps() const { return wire_->steps(); }

  // Holds back until it is let go, of one connection or of all, those to come among them.
  using Held = RdmaWire::Held;
  static constexpr size_t kAll = RdmaWire::kAll;
  void Hold(Held held, size_t connection = kAll) { wire_->Hold(held, connection); }
  void LetGo(Held held, size_t connection = kAll) { wire_->LetGo(held, connection); }
  // Waits, at most 20 s, until so many works, completions or registrations are held in all. Whether they are.
  bool AwaitHeld(Held held, size_t count) { return wire_->AwaitHeld(held, count); }
  // What is held of a connection's work has been repeated often enough: it ends with an error.
  void TimeOut(size_t connection) { wire_->TimeOut(connection); }

  // WRITEs of one queue pair arrive in any order from now on: they wait for a SEND or a READ behind them, or for their
  // poster to look for completions.
  void Reorder(uint64_t seed) { wire_->Reorder(seed); }

  // The event thread of both sides hears DISCONNECTED.
  void Cut(size_t connection) { wire_->Cut(connection); }

  using Counts = RdmaWire::Counts;
  Counts counts() const { return wire_->counts(); }
  // What is registered at an end.
  size_t registrations(End end) const { return wire_->registrations(end); }
  uint64_t registered_bytes(End end) const { return wire_->registered_bytes(end); }
  // What each connection was greeted with.
  std::vector<std::string> greetings() const { return wire_->greetings(); }

 private:
  const std::shared_ptr<RdmaWire> wire_;
  const std::shared_ptr<internal::RdmaPorts> ports_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_RDMA_FABRIC_H_
